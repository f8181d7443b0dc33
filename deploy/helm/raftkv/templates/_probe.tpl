{{/*
How the kubelet asks: by gRPC; with TLS, which its gRPC probes cannot speak, over HTTPS, where no certificate is asked of
it and it verifies none. (list . SERVICE PATH)
*/}}
{{- define "raftkv.probe" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.tls.enabled -}}
httpGet:
  scheme: HTTPS
  port: http
  path: {{ index . 2 }}
{{- else -}}
grpc:
  port: 7001
  service: {{ index . 1 | quote }}
{{- end -}}
{{- end -}}
