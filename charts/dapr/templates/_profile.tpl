{{/*
`profile`: the purpose of an installation. It sets only what the values leave open.

  default      the values as they stand
  dev          one small pod of each service
  production   the counts of global.ha, requests, and a priority above applications
  hardened     production, and every account and port with the least that it needs: see docs/limits.md
*/}}
{{- define "dapr.profile" -}}
{{- .Values.profile | default "default" -}}
{{- end -}}

{{- define "dapr.hardened" -}}
{{- if eq (include "dapr.profile" .) "hardened" -}}true{{- end -}}
{{- end -}}

{{/* "true" for the profiles that real applications depend on. */}}
{{- define "dapr.production" -}}
{{- if has (include "dapr.profile" .) (list "production" "hardened") -}}true{{- end -}}
{{- end -}}

{{/* "true" with several pods of each service. */}}
{{- define "dapr.ha.enabled" -}}
{{- if or .Values.global.ha.enabled (include "dapr.production" .) -}}true{{- end -}}
{{- end -}}

{{- define "dapr.priorityClassName" -}}
{{- .Values.global.priorityClassName | default (include "dapr.production" . | empty | ternary "" "system-cluster-critical") -}}
{{- end -}}

{{/* Requests and limits of a service. Takes root and svc. */}}
{{- define "dapr.resources" -}}
{{- $profile := include "dapr.profile" .root -}}
{{- with (index .root.Values .svc).resources -}}
{{- toYaml . -}}
{{- else -}}
{{- /* Without limits a client that makes a service allocate takes the node with it. These are 15 times and more of the
       largest figures in docs/performance.md; the alert of monitoring.alerts.memoryBytes comes long before. */ -}}
{{- $limit := has .svc (list "dapr_operator" "dapr_placement" "dapr_scheduler") | ternary "1Gi" "512Mi" -}}
{{- if eq $profile "dev" -}}
requests: {cpu: 10m, memory: 16Mi}
limits: {memory: {{ $limit }}}
{{- else if include "dapr.production" .root -}}
{{- $memory := dict "dapr_operator" "100Mi" "dapr_placement" "75Mi" "dapr_scheduler" "100Mi" -}}
requests: {cpu: {{ has .svc (list "dapr_placement" "dapr_scheduler") | ternary "250m" "100m" }}, memory: {{ get $memory .svc | default "30Mi" }}}
limits: {cpu: "1", memory: {{ $limit }}}
{{- else -}}
requests: {memory: 32Mi}
limits: {memory: {{ $limit }}}
{{- end -}}
{{- end -}}
{{- end -}}
