{{- define "dapr.operator.args" -}}
{{- with .Values.dapr_operator -}}
- --watch-interval
- {{ eq (include "dapr.watchdog.enabled" $) "true" | ternary (.watchInterval | toString) "0" | quote }}
- --max-pod-restarts-per-minute
- {{ .maxPodRestartsPerMinute | toString | quote }}
{{ include "dapr.logArgs" (dict "root" $ "values" .) }}
- --trust-anchors-file
- /var/run/secrets/dapr.io/tls/ca.crt
{{ include "dapr.metricsArgs" (dict "root" $) }}
{{- if ne (int (dig "healthzPort" 8080 .)) 8080 }}
- --healthz-port
- {{ .healthzPort | quote }}
{{- end }}
{{- if ne (int (dig "webhookPort" 19443 .)) 19443 }}
- --webhook-server-port
- {{ .webhookPort | quote }}
{{- end }}
{{- with .watchNamespace | default ($.Values.global.rbac.namespaced | ternary $.Release.Namespace "") }}
- --watch-namespace
- {{ . }}
{{- end }}
{{- if not .serviceReconciler.enabled }}
- --disable-service-reconciler
{{- end }}
{{- end }}
{{- if include "dapr.operator.secretReload" . }}
- --watch-secrets
{{- end }}
{{- if include "dapr.operator.componentStatus" . }}
- --component-status
{{- end }}
{{- if include "dapr.operator.printerColumns" . }}
- --printer-columns
{{- end }}
{{- if eq (dig "withholdGatedWorkflowRules" true .Values.dapr_operator | toString) "false" }}
- --withhold-gated-workflow-rules=false
{{- end }}
{{- if include "dapr.operator.daemonSets" . }}
- --enable-daemonset-service-reconciler
{{- end }}
{{- if .Values.global.argoRolloutServiceReconciler.enabled }}
- --enable-argo-rollout-service-reconciler
{{- end }}
{{- with .Values.dapr_operator.watchdogOwnerKinds }}
- --watchdog-owner-kinds
- {{ join "," . | quote }}
{{- end }}
{{- if .Values.global.operator.watchdogCanPatchPodLabels }}
- --watchdog-can-patch-pod-labels
{{- end }}
{{- end -}}

{{- define "dapr.operator.ports" -}}
- containerPort: {{ .Values.dapr_operator.ports.targetPort }}
  protocol: TCP
- name: webhook
  containerPort: {{ dig "webhookPort" 19443 .Values.dapr_operator }}
  protocol: TCP
{{- end -}}
