{{/* Labels of an object. Takes root and svc, the values key whose `component` the label templates see. */}}
{{- define "dapr.labels" -}}
{{- $values := set (omit (index .root.Values .svc) "global") "global" .root.Values.global -}}
{{- $scope := dict "Values" $values "Chart" .root.Chart "Release" .root.Release "Capabilities" .root.Capabilities "Template" .root.Template -}}
{{- range $key, $value := .root.Values.global.k8sLabels }}
{{ $key }}: {{ tpl (toString $value) $scope | quote }}
{{- end }}
{{- end -}}

{{/* Name, namespace and labels of a namespaced object. Takes root, svc, name and, optionally, app and namespace. */}}
{{- define "dapr.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- with .app }}
  app: {{ . }}
  {{- end }}
  {{- include "dapr.labels" . | trim | nindent 2 }}
{{- end -}}

{{/* The same of a cluster-wide object. */}}
{{- define "dapr.clusterMetadata" -}}
name: {{ .name }}
labels:
  {{- with .app }}
  app: {{ . }}
  {{- end }}
  {{- include "dapr.labels" . | trim | nindent 2 }}
{{- end -}}

{{/* What generic Prometheus configurations look for. Takes root. */}}
{{- define "dapr.scrapeAnnotations" -}}
{{- if .root.Values.global.prometheus.enabled }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | default .root.Values.global.prometheus.port | quote }}
prometheus.io/path: /
{{- end }}
{{- end -}}

{{/* Annotations of a Service: the scrape annotations under the user's. Indented for its only place, below metadata. Takes
root, scrape (bool) and user (map). */}}
{{- define "dapr.serviceAnnotations" -}}
{{- $own := dict -}}
{{- if .scrape -}}{{- $own = include "dapr.scrapeAnnotations" . | fromYaml -}}{{- end -}}
{{- with merge (dict) (.user | default dict) $own }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Port `metrics` of a Service. Takes root. */}}
{{- define "dapr.metricsServicePort" -}}
{{- if .Values.global.prometheus.enabled }}
- name: metrics
  port: {{ .Values.global.prometheus.port }}
  targetPort: metrics
  protocol: TCP
  appProtocol: http
{{- end }}
{{- end -}}

{{- define "dapr.trustDomain" -}}
{{- .Values.global.mtls.controlPlaneTrustDomain -}}
{{- end -}}

{{- define "dapr.sentryAddress" -}}
{{- .Values.global.mtls.sentryAddress | default (printf "dapr-sentry.%s.svc%s:443" .Release.Namespace .Values.global.dnsSuffix) -}}
{{- end -}}

{{/* "true" when a scheduler of Dapr's own that was kept from an upgrade serves placement. Releases before 1.19 know no
`global.scheduler.placement`, so it may be absent or null. */}}
{{- define "dapr.scheduler.placement" -}}
{{- if dig "enabled" false ((.Values.global.scheduler | default dict).placement | default dict) -}}true{{- end -}}
{{- end -}}

{{/* "true" when the placement objects are rendered. */}}
{{- define "dapr.placement.enabled" -}}
{{- if and .Values.global.actors.enabled (eq .Values.global.actors.serviceName "placement") (not (include "dapr.scheduler.placement" .)) -}}true{{- end -}}
{{- end -}}

{{/* The `app` labels of the control plane's pods: those of other installations in the cluster included. */}}
{{- define "dapr.apps" -}}
[dapr-operator, dapr-sentry, dapr-placement-server, dapr-sidecar-injector, dapr-scheduler-server]
{{- end -}}
