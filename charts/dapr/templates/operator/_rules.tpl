{{/* On kinds that have no namespace: these stay in a ClusterRole always. */}}
{{- define "dapr.operator.clusterRules" }}
# To keep the conversion webhook of Subscriptions right.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [subscriptions.dapr.io]
  verbs: [get, list, watch, patch]
{{- if include "dapr.watchdog.enabled" . }}
# The watchdog deletes no pod that the injector's webhook is not called for.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [dapr-sidecar-injector]
  verbs: [get]
# Nor any pod of a Namespace that the webhook leaves alone, which its labels say.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}
{{- end -}}

{{- define "dapr.operator.secretReload" -}}
{{- if dig "secretReload" "enabled" true .Values.dapr_operator -}}true{{- end -}}
{{- end -}}

{{- define "dapr.operator.daemonSets" -}}
{{- if dig "serviceReconciler" "daemonSets" false .Values.dapr_operator -}}true{{- end -}}
{{- end -}}

{{/* "true" when pods without their sidecar are deleted. */}}
{{- define "dapr.watchdog.enabled" -}}
{{- if and .Values.dapr_sidecar_injector.enabled
      (not (has (.Values.dapr_operator.watchInterval | toString | lower) (list "0" "false" "f" "no" "off"))) -}}
true
{{- end -}}
{{- end -}}

{{/* On the objects of applications: in the whole cluster, or in the release namespace. */}}
{{- define "dapr.operator.resourceRules" }}
- apiGroups: [dapr.io]
  resources: [components, configurations, subscriptions, resiliencies, httpendpoints, mcpservers, workflowaccesspolicies]
  verbs: [get, list, watch]
# Those that Components refer to; each is read by its name, and with dapr_operator.secretReload their metadata is watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get{{ if include "dapr.operator.secretReload" . }}, list, watch{{ end }}]
# What is wrong with an object is said on the object.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# The <app-id>-dapr Services and their owners. `finalizers` lets a Service block the deletion of its owner.
- apiGroups: [apps]
  resources: [deployments, statefulsets{{ if include "dapr.operator.daemonSets" . }}, daemonsets{{ end }}]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments/finalizers, statefulsets/finalizers{{ if include "dapr.operator.daemonSets" . }}, daemonsets/finalizers{{ end }}]
  verbs: [get, list, watch, update]
- apiGroups: [""]
  resources: [services, services/finalizers]
  verbs: [get, list, watch, create, update]
- apiGroups: [""]
  resources: [services]
  verbs: [delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch{{ if include "dapr.watchdog.enabled" . }}, delete{{ if .Values.global.operator.watchdogCanPatchPodLabels }}, patch{{ end }}{{ end }}]
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
{{- if include "dapr.watchdog.enabled" . }}
# Dry runs only: the watchdog offers a pod to see whether it gets a sidecar.
- apiGroups: [""]
  resources: [pods]
  verbs: [create]
{{- end }}
{{- end -}}
