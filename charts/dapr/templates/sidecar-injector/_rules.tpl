{{- define "dapr.injector.clusterRules" }}
# To identify the accounts of the allow-list by UID too.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get]
# To write the caBundle and to restore it.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [dapr-sidecar-injector]
  verbs: [list, watch, patch]
{{- if dig "namespaceDefaults" true .Values.dapr_sidecar_injector }}
# Their labels and annotations configure the sidecars of their pods.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
  {{- if .Values.global.rbac.namespaced }}
  resourceNames: [{{ .Release.Namespace }}]
  {{- end }}
{{- end }}
{{- if eq (toString .Values.dapr_sidecar_injector.nativeSidecar) "auto" }}
# Native sidecars need kubelets that support them.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
{{- if not .Values.global.rbac.namespaced }}
{{- include "dapr.injector.podRules" . }}
{{- end }}
{{- end -}}

{{/* Rights on pods: in the whole cluster, or in the release namespace. */}}
{{- define "dapr.injector.podRules" }}
{{- include "dapr.injector.componentRule" . }}
{{- if dig "injectionEvents" true .Values.dapr_sidecar_injector }}
# To record Events on the owners of pods.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
{{- if dig "reachabilityCheck" true .Values.dapr_sidecar_injector }}
# To detect pods that the API server did not send to the webhook.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}
{{- end -}}

{{/* Components may add containers to the pod. */}}
{{- define "dapr.injector.componentRule" }}
- apiGroups: [dapr.io]
  resources: [components]
  verbs: [list, watch]
{{- end -}}

{{- define "dapr.injector.ownRules" }}
{{- include "dapr.trustBundleRule" . }}
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get]
{{- if .Values.global.rbac.namespaced }}
{{- include "dapr.injector.podRules" . }}
{{- end }}
{{- end -}}
