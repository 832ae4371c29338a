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
{{- with .Values.dapr_sentry.jwt }}
{{- if .enabled }}
- --jwt-enabled=true
{{- include "dapr.sentry.optional" (list
      (list "jwt-key-filename" .keyFilename)
      (list "jwks-filename" .jwksFilename)
      (list "jwt-issuer" .issuer)
      (list "jwt-signing-algorithm" .signingAlgorithm)
      (list "jwt-key-id" .keyID)) }}
{{- end }}
{{- end }}
{{- with .Values.dapr_sentry.oidc }}
{{- if .enabled }}
- --oidc-enabled=true
# All addresses, of both IP families.
- --oidc-server-listen-address=
- --oidc-server-tls-enabled={{ .tls.enabled }}
{{- include "dapr.sentry.optional" (list
      (list "oidc-jwks-uri" .jwksURI)
      (list "oidc-path-prefix" .pathPrefix)
      (list "oidc-allowed-hosts" (join "," .allowedHosts))
      (list "oidc-server-tls-cert-file" .tls.certFile)
      (list "oidc-server-tls-key-file" .tls.keyFile)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* `--flag=value` for each pair with a value. */}}
{{- define "dapr.sentry.optional" -}}
{{- range . }}
{{- $flag := index . 0 }}
{{- with index . 1 }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.sentry.ports" -}}
- containerPort: {{ .Values.dapr_sentry.ports.targetPort }}
  protocol: TCP
{{- if .Values.dapr_sentry.oidc.enabled }}
- name: oidc
  containerPort: 9080
  protocol: TCP
{{- end }}
{{- end -}}
