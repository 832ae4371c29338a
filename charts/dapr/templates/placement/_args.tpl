{{- define "dapr.placement.args" -}}
{{- with .Values.dapr_placement -}}
{{ include "dapr.logArgs" (dict "root" $ "values" .) }}
{{- if .metadataEnabled }}
- --metadata-enabled
{{- end }}
- --replicationFactor={{ .replicationFactor }}
- --max-api-level={{ .maxActorApiLevel }}
- --min-api-level={{ .minActorApiLevel }}
- --keepalive-time={{ .keepAliveTime }}
- --keepalive-timeout={{ .keepAliveTimeout }}
- --disseminate-timeout={{ .disseminateTimeout }}
- --disseminate-coalesce-window={{ .disseminateCoalesceWindow }}
{{- end }}
{{ include "dapr.metricsArgs" (dict "root" .) }}
- --tls-enabled
- --trust-domain={{ include "dapr.trustDomain" . }}
- --trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt
- --sentry-address={{ include "dapr.sentryAddress" . }}
- --mode=kubernetes
{{- end -}}

{{- define "dapr.placement.env" -}}
- name: PLACEMENT_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{ include "dapr.namespaceEnv" . }}
{{- end -}}

{{- define "dapr.placement.ports" -}}
- name: api
  containerPort: {{ .Values.dapr_placement.ports.apiPort }}
  protocol: TCP
- name: raft-node
  containerPort: {{ .Values.dapr_placement.ports.raftRPCPort }}
  protocol: TCP
{{- end -}}
