# Toxiproxy for the chaos profile where its own image cannot be pulled. The context holds a `toxiproxy-server`:
#
#   GOBIN=$PWD/build go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0 && mv build/server build/toxiproxy-server
#   docker build -f deploy/docker/toxiproxy.Dockerfile -t toxiproxy:local build
#   TOXIPROXY_IMAGE=toxiproxy:local docker compose --env-file deploy/compose/chaos.env up -d
ARG BASE_IMAGE=debian:12-slim
FROM ${BASE_IMAGE}
COPY toxiproxy-server /usr/local/bin/toxiproxy-server
USER 10001:10001
EXPOSE 8474
ENTRYPOINT ["toxiproxy-server"]
