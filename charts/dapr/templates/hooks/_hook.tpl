{{/* Metadata of an object that exists only while a hook runs. Takes root, name, hook, weight and, optionally, cluster. */}}
{{- define "dapr.hook.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "dapr.labels" (dict "root" .root "svc" "dapr_rbac") | trim | nindent 2 }}
annotations:
  helm.sh/hook: {{ .hook }}
  helm.sh/hook-weight: {{ .weight | quote }}
  # Failed objects stay for inspection.
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/*
ServiceAccount, role and binding of a hook. Takes root, name, hook, cluster (bool) and rules (a YAML list, as text).
*/}}
{{- define "dapr.hook.rights" -}}
{{- $kind := .cluster | ternary "ClusterRole" "Role" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "dapr.hook.metadata" (dict "root" .root "name" .name "hook" .hook "weight" -10) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  {{- include "dapr.hook.metadata" (merge (dict "weight" -10) .) | nindent 2 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  {{- include "dapr.hook.metadata" (merge (dict "weight" -10) .) | nindent 2 }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
{{- end -}}

{{/*
Pod of a hook: the operator's image with another command. Takes root, name, args (a list) and, optionally, account (the
name otherwise) and trusts ("true": with the trust anchors and a token for sentry).
*/}}
{{- define "dapr.hook.pod" -}}
{{- $global := .root.Values.global -}}
serviceAccountName: {{ .account | default .name }}
restartPolicy: Never
{{- with include "dapr.podSecurity" (dict "global" $global) | trim }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
containers:
  - name: {{ .name }}
    image: {{ include "dapr.image" (dict "root" .root "service" "operator" "name" (dig "image" "name" "" .root.Values.dapr_operator)) | quote }}
    imagePullPolicy: {{ $global.imagePullPolicy }}
    command: [/operator]
    args: {{ toJson .args }}
    env:
      {{- include "dapr.env" (dict "head" (include "dapr.namespaceEnv" .root) "extra" .root.Values.dapr_operator.extraEnvVars) | trim | nindent 6 }}
    securityContext:
      runAsNonRoot: {{ .root.Values.dapr_operator.runAsNonRoot }}
      {{- include "dapr.containerSecurity" $global | nindent 6 }}
    {{- with include "dapr.trustMounts" . | trim }}
    volumeMounts:
      {{- . | nindent 6 }}
    {{- end }}
{{- with include "dapr.trustVolumes" . | trim }}
volumes:
  {{- . | nindent 2 }}
{{- end }}
affinity:
  {{- include "dapr.nodeAffinity" $global | trim | nindent 2 }}
{{- with include "dapr.placing" .root | trim }}
{{ . }}
{{- end }}
{{- end -}}
