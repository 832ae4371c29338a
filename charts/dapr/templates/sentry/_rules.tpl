{{- define "dapr.sentry.clusterRules" }}
# Who a sidecar is.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- if not .Values.global.rbac.namespaced }}
# What lifetime and trust domain an app's Configuration asks for.
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get, list, watch]
# Whether the pod of a token runs, and which app it is.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- end -}}

{{- define "dapr.sentry.ownRules" }}
# Its own CA; the chart makes both objects, so `create` is not needed.
- apiGroups: [""]
  resources: [secrets, configmaps]
  resourceNames: [dapr-trust-bundle]
  verbs: [get, list, watch, update]
# What happens to the CA.
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
