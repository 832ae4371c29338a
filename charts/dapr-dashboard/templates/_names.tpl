{{/* The registry of the image, or nothing. Dapr's public registries hold no image of this dashboard. */}}
{{- define "dashboard.registry" -}}
{{- $mirror := .Values.global.registry -}}
{{- if has $mirror (list nil "" "ghcr.io/dapr" "docker.io/daprio" "daprio") -}}{{- $mirror = "" -}}{{- end -}}
{{- trimSuffix "/" ($mirror | default .Values.global.controlPlane.registry | default "") -}}
{{- end -}}

{{/* The image, or nothing if it is in no known registry: then nothing is installed. */}}
{{- define "dashboard.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if contains "/" .Values.image.name -}}
{{- .Values.image.name -}}
{{- else if include "dashboard.registry" . -}}
{{- printf "%s/%s:%s" (include "dashboard.registry" .) .Values.image.name $tag -}}
{{- end -}}
{{- end -}}

{{- define "dashboard.labels" -}}
app: dapr-dashboard
app.kubernetes.io/name: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: dashboard
app.kubernetes.io/part-of: dapr
app.kubernetes.io/managed-by: helm
{{- end -}}

{{- define "dashboard.metadata" -}}
name: dapr-dashboard
namespace: {{ .Release.Namespace }}
labels:
  {{- include "dashboard.labels" . | nindent 2 }}
{{- end -}}

{{/* A string, a list of strings, or a list of {name: ...}. */}}
{{- define "dashboard.imagePullSecrets" -}}
{{- $secrets := .Values.global.imagePullSecrets -}}
{{- if kindIs "string" $secrets -}}{{- $secrets = compact (list $secrets) -}}{{- end -}}
{{- range $secrets }}
- name: {{ kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . }}
{{- end }}
{{- end -}}
