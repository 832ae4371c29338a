{{- define "dapr.sentry.args" -}}
- --mode
- {{ .Values.dapr_sentry.mode }}
{{ include "dapr.logArgs" (dict "root" . "values" .Values.dapr_sentry) }}
{{ include "dapr.metricsArgs" (dict "root" .) }}
- --trust-domain
- {{ include "dapr.trustDomain" . }}
{{- with .Values.global.issuerFilenames }}
- --issuer-ca-filename
- {{ .ca | quote }}
- --issuer-certificate-filename
- {{ .cert | quote }}
- --issuer-key-filename
- {{ .key | quote }}
{{- end }}
{{- with dig "caKeyType" "" .Values.dapr_sentry }}
- --ca-key-type
- {{ . }}
{{- end }}
{{- with dig "caLifetime" "" .Values.dapr_sentry }}
- --ca-lifetime
- {{ . | quote }}
{{- end }}
{{- /* Not `with`: 0 is a value. */}}
{{- $rotateAt := dig "caRotateAt" "" .Values.dapr_sentry | toString }}
{{- if $rotateAt }}
- --ca-rotate-at
- {{ $rotateAt | quote }}
{{- end }}
{{- with dig "caKeepRetired" "" .Values.dapr_sentry }}
- --ca-keep-retired
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "dapr.sentry.ports" -}}
- containerPort: {{ .Values.dapr_sentry.ports.targetPort }}
  protocol: TCP
{{- end -}}
