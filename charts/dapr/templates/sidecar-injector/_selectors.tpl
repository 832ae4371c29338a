{{/*
Which pods the webhook sees, and the guard with it. The control plane's own pods are left out by label and not by
namespace, because applications may run there too. Takes the root scope.
*/}}
{{- define "dapr.injector.selectors" -}}
{{- $values := .Values.dapr_sidecar_injector -}}
{{- $user := $values.objectSelector | default dict -}}
{{- $excluded := dig "excludedNamespaces" (list "kube-system") $values -}}
{{- $namespaces := $values.namespaceSelector | default dict -}}
namespaceSelector:
  {{- with $namespaces.matchLabels }}
  matchLabels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  matchExpressions:
    # The API server makes no call for a disabled Namespace.
    - key: dapr.io/injection
      operator: NotIn
      values: [disabled]
    {{- if $values.namespaceSelector }}
    {{- with $namespaces.matchExpressions }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- else if .Values.global.rbac.namespaced }}
    # Sidecars in other namespaces would get neither identity nor resources: the services have no rights there.
    - key: kubernetes.io/metadata.name
      operator: In
      values: [{{ .Release.Namespace }}]
    {{- else if $excluded }}
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values: {{ toJson $excluded }}
    {{- end }}
objectSelector:
  {{- with $user.matchLabels }}
  matchLabels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  matchExpressions:
    - key: app
      operator: NotIn
      values: {{ include "dapr.apps" . }}
    {{- with $user.matchExpressions }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "dapr.cel.notMirrorPod" -}}
!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)
{{- end -}}

{{/* `dapr.io/enabled` as every service reads it: these six words, in any case, between blanks. */}}
{{- define "dapr.cel.asksForSidecar" -}}
has(object.metadata.annotations) && 'dapr.io/enabled' in object.metadata.annotations
&& object.metadata.annotations['dapr.io/enabled'].trim().lowerAscii() in ['y', 'yes', 'true', 't', 'on', '1']
{{- end -}}

{{/* "true" when the admission guard is rendered. */}}
{{- define "dapr.guard.enabled" -}}
{{- if and .Values.dapr_sidecar_injector.enabled (dig "admissionGuard" "enabled" true .Values.AsMap) -}}true{{- end -}}
{{- end -}}
