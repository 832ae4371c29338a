{{- /* Three for HA, whatever global.ha.replicaCount says: the servers elect a leader, and a number of their own cannot be
       scaled without a restart of all. */ -}}
{{- define "dapr.placement.replicas" -}}
{{- or (eq (include "dapr.ha.enabled" .) "true") .Values.dapr_placement.ha | ternary 3 1 -}}
{{- end -}}

{{- define "dapr.placement.cluster" -}}
{{- $root := . -}}
{{- $members := list -}}
{{- range $i := until (include "dapr.placement.replicas" . | int) -}}
{{- $name := printf "dapr-placement-server-%d" $i -}}
{{- $host := printf "%s.dapr-placement-server.%s.svc%s" $name $root.Release.Namespace $root.Values.global.dnsSuffix -}}
{{- $members = append $members (printf "%s=%s:%d" $name $host (int $root.Values.dapr_placement.ports.raftRPCPort)) -}}
{{- end -}}
{{- join "," $members -}}
{{- end -}}

{{- define "dapr.placement.args" -}}
{{- if gt (include "dapr.placement.replicas" . | int) 1 -}}
- --id
- $(PLACEMENT_ID)
- --initial-cluster
- {{ include "dapr.placement.cluster" . }}
{{- if eq .Values.dapr_placement.leaderElection "lease" }}
- --leader-election=lease
{{- end }}
{{ end -}}
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

{{- define "dapr.placement.rules" -}}
{{- include "dapr.trustBundleRule" . }}
{{- if eq .Values.dapr_placement.leaderElection "lease" }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [placement.dapr.io]
  verbs: [get, update]
# Kubernetes cannot limit `create` by name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
{{- end -}}
