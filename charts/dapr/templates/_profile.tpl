{{/*
`profile`: what an installation is for. It only fills in what the values leave open: a value that is given wins.

  default      the values as they stand
  dev          one small pod of each service
  production   the counts of global.ha, requests, and a priority above applications
*/}}
{{- define "dapr.profile" -}}
{{- .Values.profile | default "default" -}}
{{- end -}}

{{/* "true" with several pods of each service. */}}
{{- define "dapr.ha.enabled" -}}
{{- if or .Values.global.ha.enabled (eq (include "dapr.profile" .) "production") -}}true{{- end -}}
{{- end -}}

{{- define "dapr.priorityClassName" -}}
{{- .Values.global.priorityClassName | default (eq (include "dapr.profile" .) "production" | ternary "system-cluster-critical" "") -}}
{{- end -}}

{{/* Requests and limits of a service. Takes root and svc. */}}
{{- define "dapr.resources" -}}
{{- $profile := include "dapr.profile" .root -}}
{{- with (index .root.Values .svc).resources -}}
{{- toYaml . -}}
{{- else -}}
{{- if eq $profile "dev" -}}
requests: {cpu: 10m, memory: 16Mi}
{{- else if eq $profile "production" -}}
{{- /* No limit on memory: a control plane that is killed for it helps nobody. */ -}}
{{- $memory := dict "dapr_operator" "100Mi" "dapr_placement" "75Mi" -}}
requests: {cpu: {{ eq .svc "dapr_placement" | ternary "250m" "100m" }}, memory: {{ get $memory .svc | default "30Mi" }}}
limits: {cpu: "1"}
{{- end -}}
{{- end -}}
{{- end -}}
