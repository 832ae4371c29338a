{{/* ServiceAccount. Takes root, name and key (of dapr_rbac.serviceAccount). */}}
{{- define "dapr.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "dapr.metadata" (dict "root" .root "svc" "dapr_rbac" "name" .name) | nindent 2 }}
  {{- with dig "serviceAccount" .key "annotations" dict .root.Values.dapr_rbac }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/*
A role and its binding to one ServiceAccount of the release namespace. Takes root, name, account and rules (a YAML
list, as text); cluster: true makes them cluster-wide, namespace puts them elsewhere than into the release namespace.
*/}}
{{- define "dapr.role" -}}
{{- $kind := .cluster | ternary "ClusterRole" "Role" -}}
{{- $metadata := .cluster | ternary "dapr.clusterMetadata" "dapr.metadata" -}}
{{- $scope := dict "root" .root "svc" "dapr_rbac" "name" .name "namespace" .namespace -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  {{- include $metadata $scope | nindent 2 }}
{{- with trim .rules }}
rules:
  {{- . | nindent 2 }}
{{- else }}
rules: []
{{- end }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  {{- include $metadata $scope | nindent 2 }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
{{- end -}}

{{/* "true" when admission policies limit what the control plane's own accounts may do. */}}
{{- define "dapr.accountPolicies.enabled" -}}
{{- if or (dig "rbac" "accountPolicies" "enabled" true .Values.global) (include "dapr.hardened" .) -}}true{{- end -}}
{{- end -}}

{{/* A service reads the trust anchors itself until the kubelet has projected them, which takes up to a minute. */}}
{{- define "dapr.trustBundleRule" }}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [dapr-trust-bundle]
  verbs: [get]
{{- end -}}
