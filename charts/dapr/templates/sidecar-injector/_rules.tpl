{{- define "dapr.injector.clusterRules" }}
# To know the accounts of the allow-list by their UID too.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get]
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
  verbs: [get, list, watch]
{{- end -}}

{{- define "dapr.injector.ownRules" }}
{{- include "dapr.trustBundleRule" . }}
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get]
{{- if .Values.global.rbac.namespaced }}
{{- include "dapr.injector.componentRule" . }}
{{- end }}
{{- end -}}
