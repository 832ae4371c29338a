{{- define "dapr.sentry.clusterRules" }}
# Who a sidecar is.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if not .Values.global.rbac.namespaced }}
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}

{{- define "dapr.sentry.ownRules" }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [dapr-trust-bundle]
  verbs: [get, update]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [dapr-trust-bundle]
  verbs: [get, update]
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get, list, watch]
{{- if .Values.global.rbac.namespaced }}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}
