{{- define "dapr.sentry.clusterRules" }}
# To authenticate sidecars.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if not .Values.global.rbac.namespaced }}
# Certificate lifetime and trust domain of an app's Configuration.
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get, list, watch]
# The pod of a token: whether it runs, and its app id.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}

{{- define "dapr.sentry.ownRules" }}
# The CA; the chart creates both objects, so `create` is not needed.
- apiGroups: [""]
  resources: [secrets, configmaps]
  resourceNames: [dapr-trust-bundle]
  verbs: [get, list, watch, update]
# Events about the CA.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get, list, watch]
{{- if .Values.global.rbac.namespaced }}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}
