{{- define "raftkv.name" -}}
{{- if contains "raftkv" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-raftkv" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "raftkv.selector" -}}
app.kubernetes.io/name: raftkv
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "raftkv.labels" -}}
{{ include "raftkv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What the alerts and the dashboard call the cluster. */}}
{{- define "raftkv.job" -}}
{{- $name := include "raftkv.name" . -}}
{{- if eq $name "raftkv" -}}raftkv{{- else -}}raftkv/{{ $name }}{{- end -}}
{{- end -}}

{{/* The founding members, under short names: addresses are kept for good, and these hold in every namespace. */}}
{{- define "raftkv.members" -}}
{{- $name := include "raftkv.name" . -}}
{{- range $id := untilStep 1 (int (add1 .Values.founders)) 1 -}}
{{- if gt $id 1 }},{{ end -}}
{{ $id }}={{ $name }}-{{ $id }}.{{ $name }}-peers:7101
{{- end -}}
{{- end -}}

{{/* What values.schema.json cannot say. */}}
{{- define "raftkv.check" -}}
{{- if lt (int .Values.replicas) (int .Values.founders) -}}
{{- fail (printf "replicas (%d) are fewer than founders (%d): give the founders that the cluster was founded with, and remove nodes with `raftkv member remove` before their pods" (int .Values.replicas) (int .Values.founders)) -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
{{- if and (not .Values.tls.secretName) (not .Values.tls.certManager.enabled) -}}
{{- fail "tls.enabled needs tls.secretName (as `raftkv certs init` makes it) or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .Values.tls.secretName .Values.tls.certManager.enabled -}}
{{- fail "tls.secretName and tls.certManager.enabled: give one of them" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- end -}}
{{- end -}}
