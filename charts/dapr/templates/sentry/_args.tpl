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
{{- if not (dig "containerImagesExtension" true .Values.dapr_sentry) }}
- --container-images-extension=false
{{- end }}
{{- if dig "jwt" "enabled" false .Values.dapr_sentry }}
{{- $jwt := .Values.dapr_sentry.jwt }}
- --jwt-enabled=true
{{- range $flag, $value := dict "jwt-key-filename" $jwt.keyFilename "jwks-filename" $jwt.jwksFilename "jwt-issuer" $jwt.issuer "jwt-signing-algorithm" $jwt.signingAlgorithm "jwt-key-id" $jwt.keyID }}
{{- with $value }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if dig "oidc" "enabled" false .Values.dapr_sentry }}
{{- $oidc := .Values.dapr_sentry.oidc }}
- --oidc-enabled=true
- --oidc-server-listen-address=
- --oidc-server-tls-enabled={{ $oidc.tls.enabled }}
{{- range $flag, $value := dict "oidc-jwks-uri" $oidc.jwksURI "oidc-path-prefix" $oidc.pathPrefix "oidc-allowed-hosts" (join "," $oidc.allowedHosts) "oidc-server-tls-cert-file" $oidc.tls.certFile "oidc-server-tls-key-file" $oidc.tls.keyFile }}
{{- with $value }}
- {{ printf "--%s=%s" $flag . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- /* Last: the last of repeated flags wins. */}}
{{- range dig "extraArgs" list .Values.dapr_sentry }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* 288 is 0440: parsers of YAML 1.2 read 0440 as decimal. */}}
{{- define "dapr.sentry.volumes" -}}
- name: credentials
  secret:
    secretName: dapr-trust-bundle
    defaultMode: 288
{{- end -}}

{{- define "dapr.sentry.ports" -}}
- containerPort: {{ .Values.dapr_sentry.ports.targetPort }}
  protocol: TCP
{{- if dig "oidc" "enabled" false .Values.dapr_sentry }}
- containerPort: 9080
  name: oidc
  protocol: TCP
{{- end }}
{{- end -}}
