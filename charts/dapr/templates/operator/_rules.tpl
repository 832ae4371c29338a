{{/* On cluster-wide kinds: always in a ClusterRole. */}}
{{- define "dapr.operator.clusterRules" }}
# To maintain the conversion webhook of Subscriptions.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [subscriptions.dapr.io]
  verbs: [get, list, watch, patch]
{{- if include "dapr.operator.printerColumns" . }}
# To add columns to the definitions, and with dapr_operator.componentStatus a status to that of Components.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [components.dapr.io, configurations.dapr.io, httpendpoints.dapr.io, mcpservers.dapr.io, resiliencies.dapr.io, workflowaccesspolicies.dapr.io]
  verbs: [get, patch]
{{- else if include "dapr.operator.componentStatus" . }}
# To add a status and its columns to the definition of Components.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [components.dapr.io]
  verbs: [get, patch]
{{- end }}
{{- if include "dapr.watchdog.enabled" . }}
# The watchdog deletes only pods for which the webhook is called.
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [dapr-sidecar-injector]
  verbs: [get]
# Nor pods of Namespaces that the webhook excludes by label.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}
{{- end -}}

{{/* Whether changed Secrets are watched. Not with a list of namespaces: a watch covers one namespace or all. The rights
to list and watch Secrets give their contents too, so the profile `hardened` goes without. */}}
{{- define "dapr.operator.secretReload" -}}
{{- if and (dig "secretReload" "enabled" true .Values.dapr_operator) (not (include "dapr.operator.secretNamespaces" .)) (not (include "dapr.hardened" .)) -}}true{{- end -}}
{{- end -}}

{{/* The namespaces whose Secrets may be read, separated by blanks; nothing for all. */}}
{{- define "dapr.operator.secretNamespaces" -}}
{{- join " " (dig "rbac" "secrets" "namespaces" list .Values.global) -}}
{{- end -}}

{{/* Those that Components refer to; each is read by its name, and with dapr_operator.secretReload their metadata is watched. */}}
{{- define "dapr.operator.secretRule" }}
# Those that Components refer to.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get{{ if include "dapr.operator.secretReload" . }}, list, watch{{ end }}]
{{- end -}}

{{- define "dapr.operator.componentStatus" -}}
{{- if dig "componentStatus" "enabled" false .Values.dapr_operator -}}true{{- end -}}
{{- end -}}

{{- define "dapr.operator.printerColumns" -}}
{{- if dig "printerColumns" "enabled" false .Values.dapr_operator -}}true{{- end -}}
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
  verbs: [list, watch]
{{- if include "dapr.operator.componentStatus" . }}
- apiGroups: [dapr.io]
  resources: [components/status]
  verbs: [patch]
{{- end }}
{{- /* Kubernetes cannot grant all Secrets but one: an account that may read all may read the key of the CA. */ -}}
{{- if not (or (include "dapr.operator.secretNamespaces" .) (include "dapr.hardened" .)) }}
{{- include "dapr.operator.secretRule" . }}
{{- end }}
# App ids of workloads without pods, which scopes may name; read only when no pod has one.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [list]
- apiGroups: [batch]
  resources: [jobs, cronjobs]
  verbs: [list]
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledjobs]
  verbs: [list]
# Events on the objects that cause a problem, and on the lease.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# The <app-id>-dapr Services and their owners. `finalizers` lets a Service block the deletion of its owner.
{{- if .Values.dapr_operator.serviceReconciler.enabled }}
- apiGroups: [apps]
  resources: [deployments, statefulsets{{ if include "dapr.operator.daemonSets" . }}, daemonsets{{ end }}]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments/finalizers, statefulsets/finalizers{{ if include "dapr.operator.daemonSets" . }}, daemonsets/finalizers{{ end }}]
  verbs: [update]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, update, delete]
{{- end }}
# The running apps; the watchdog reads a pod again before it deletes it.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch{{ if include "dapr.watchdog.enabled" . }}, get, delete{{ if .Values.global.operator.watchdogCanPatchPodLabels }}, patch{{ end }}{{ end }}]
{{- if .Values.global.argoRolloutServiceReconciler.enabled }}
- apiGroups: [argoproj.io]
  resources: [rollouts]
  verbs: [list, watch]
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
  resourceNames: [operator.dapr.io]
  verbs: [get, update]
# Kubernetes cannot limit `create` by name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Its own settings, read before any watch starts.
- apiGroups: [dapr.io]
  resources: [configurations]
  verbs: [get]
{{- if include "dapr.watchdog.enabled" . }}
# Dry runs only: the watchdog creates a probe pod to test injection.
- apiGroups: [""]
  resources: [pods]
  verbs: [create]
{{- end }}
{{- end -}}
