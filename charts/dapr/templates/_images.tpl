{{/* The newest patch of the sidecar of this minor version. */}}
{{- define "dapr.sidecarTag" -}}1.18.5{{- end -}}

{{/*
The version of this installation: tag of the control plane images, which the CLI reads. `-mariner` is a variant of
Dapr's images (`dapr init -k --image-variant mariner`), and each has tags for one architecture; the control plane's images
have no variants and are for every architecture.
*/}}
{{- define "dapr.tag" -}}
{{- regexReplaceAll "(-mariner)?(-linux-(amd64|arm64|arm))?$" (.Values.global.tag | default .Chart.AppVersion) "" -}}
{{- end -}}

{{/*
The registry that `global.registry` names for every image, or nothing. Dapr's public registries hold no image of this
control plane, so naming one of them is like naming none: `helm upgrade --reuse-values` over a Dapr release does it.
*/}}
{{- define "dapr.mirror" -}}
{{- if not (has .Values.global.registry (list nil "" "ghcr.io/dapr" "docker.io/daprio" "daprio")) -}}
{{- trimSuffix "/" .Values.global.registry -}}
{{- end -}}
{{- end -}}

{{/*
Image of a control plane service. Takes root, service and name; a name with a slash is a complete reference. Values that are
kept from Dapr's charts up to 1.9 (`--reuse-values`) have no name, or that of the one image that held all services, `dapr`.
*/}}
{{- define "dapr.image" -}}
{{- $name := .name | default .service -}}
{{- if contains "/" $name -}}
{{- $name -}}
{{- else -}}
{{- if eq $name "dapr" -}}{{- $name = .service -}}{{- end -}}
{{- $registry := include "dapr.mirror" .root | default (dig "controlPlane" "registry" "" .root.Values.global) -}}
{{- if not $registry -}}
{{- fail "no image registry is set. The images of this control plane are in no public registry yet: push them to one that your cluster can read (`cargo xtask image --push REGISTRY`) and add `--set global.controlPlane.registry=REGISTRY`. Where a private registry mirrors all images, daprd too, set `global.registry` instead." -}}
{{- end -}}
{{- printf "%s/%s:%s" (trimSuffix "/" $registry) $name (include "dapr.tag" .root) -}}
{{- end -}}
{{- end -}}

{{/* Image of the sidecar: Dapr's own, unless a mirror or a complete reference is given. */}}
{{- define "dapr.sidecarImage" -}}
{{- $name := dig "image" "name" "" .Values.dapr_sidecar_injector | default "daprd" -}}
{{- if contains "/" $name -}}
{{- $name -}}
{{- else -}}
{{- $registry := include "dapr.mirror" . | default (dig "daprd" "registry" "ghcr.io/dapr" .Values.global) -}}
{{- $tag := dig "daprd" "tag" "" .Values.global | default (regexReplaceAll "-r[0-9]+$" (.Values.global.tag | default "") "") -}}
{{- $tag = $tag | default (include "dapr.sidecarTag" .) -}}
{{- printf "%s/%s:%s" (trimSuffix "/" $registry) $name $tag -}}
{{- end -}}
{{- end -}}
