{{/* On kinds that have no namespace: these stay in a ClusterRole always. */}}
{{- define "dapr.operator.clusterRules" }}
# To keep the conversion webhook of Subscriptions right.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [subscriptions.dapr.io]
  verbs: [get, patch]
{{- end -}}

{{/* On the objects of applications: in the whole cluster, or in the release namespace. */}}
{{- define "dapr.operator.resourceRules" }}
- apiGroups: [dapr.io]
  resources: [components, configurations, subscriptions, resiliencies, httpendpoints, mcpservers, workflowaccesspolicies]
  verbs: [get, list, watch]
# Those that Components refer to; each is read by its name.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# What is wrong with an object is said on the object.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# The <app-id>-dapr Services and their owners. `finalizers` lets a Service block the deletion of its owner.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/finalizers, statefulsets/finalizers]
  verbs: [get, list, watch, update]
- apiGroups: [""]
  resources: [services, services/finalizers]
  verbs: [get, list, watch, create, update]
- apiGroups: [""]
  resources: [services]
  verbs: [delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete{{ if .Values.global.operator.watchdogCanPatchPodLabels }}, patch{{ end }}]
{{- if .Values.global.argoRolloutServiceReconciler.enabled }}
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [get, list, watch, delete]
- apiGroups: [argoproj.io]
  resources: [rollouts/finalizers]
  verbs: [update]
{{- end }}
{{- end -}}

{{/* Leader election and Events, in the release namespace. */}}
{{- define "dapr.operator.ownRules" }}
{{- include "dapr.trustBundleRule" . }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [operator.dapr.io, webhooks.dapr.io]
  verbs: [get, list, watch, update]
# Kubernetes cannot limit `create` by name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [operator.dapr.io, webhooks.dapr.io]
  verbs: [get, list, watch, update]
- apiGroups: [""]
  resources: [configmaps, events]
  verbs: [create]
{{- end -}}
