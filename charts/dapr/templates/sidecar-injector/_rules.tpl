{{- define "dapr.injector.clusterRules" }}
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list]
# To write the caBundle, and to write it again when somebody removed it.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [dapr-sidecar-injector]
  verbs: [get, list, watch, patch]
{{- if not .Values.global.rbac.namespaced }}
{{- include "dapr.injector.componentRule" . }}
{{- end }}
{{- end -}}

{{/* Components may bring containers for the pod. */}}
{{- define "dapr.injector.componentRule" }}
- apiGroups: [dapr.io]
  resources: [components]
  verbs: [get, list]
{{- end -}}

{{- define "dapr.injector.ownRules" }}
{{- include "dapr.trustBundleRule" . }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [dapr-trust-bundle]
  verbs: [get]
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get]
{{- if .Values.global.rbac.namespaced }}
{{- include "dapr.injector.componentRule" . }}
{{- end }}
{{- end -}}
