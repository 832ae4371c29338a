{{- define "dapr.injector.args" -}}
{{- with .Values.dapr_sidecar_injector -}}
{{ include "dapr.logArgs" (dict "root" $ "values" .) }}
{{ include "dapr.metricsArgs" (dict "root" $) }}
- --healthz-port
- {{ .healthzPort | toString | quote }}
- --scheduler-enabled={{ or (include "dapr.scheduler.enabled" $ | eq "true") (dig "external" false ($.Values.global.scheduler | default dict)) }}
{{- if dig "clientCA" "configMap" "" . }}
- --client-ca-file
- /var/run/secrets/trilby/client-ca/{{ dig "clientCA" "key" "ca.crt" . }}
{{- end }}
{{- if ne (int (dig "webhookPort" 4000 .)) 4000 }}
- --port
- {{ .webhookPort | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.injector.ports" -}}
- name: https
  containerPort: {{ dig "webhookPort" 4000 .Values.dapr_sidecar_injector }}
  protocol: TCP
{{- end -}}

{{/* The identity of the injector. */}}
{{- define "dapr.injector.identityEnv" -}}
- name: DAPR_TRUST_ANCHORS_FILE
  value: /var/run/secrets/dapr.io/tls/ca.crt
- name: DAPR_CONTROL_PLANE_TRUST_DOMAIN
  value: {{ include "dapr.trustDomain" . | quote }}
- name: DAPR_SENTRY_ADDRESS
  value: {{ include "dapr.sentryAddress" . | quote }}
{{- end -}}

{{/* The settings of sidecars. */}}
{{- define "dapr.injector.env" -}}
{{- $global := .Values.global -}}
{{- with .Values.dapr_sidecar_injector -}}
- name: KUBE_CLUSTER_DOMAIN
  value: {{ dig "kubeClusterDomain" (trimPrefix "." $global.dnsSuffix) . | quote }}
- name: SIDECAR_IMAGE
  value: {{ include "dapr.sidecarImage" $ | quote }}
- name: SIDECAR_IMAGE_PULL_POLICY
  value: {{ .sidecarImagePullPolicy | quote }}
- name: SIDECAR_RUN_AS_NON_ROOT
  value: {{ .sidecarRunAsNonRoot | quote }}
{{- if gt (int (dig "sidecarRunAsUser" 0 .)) 0 }}
- name: SIDECAR_RUN_AS_USER
  value: {{ .sidecarRunAsUser | int | quote }}
{{- end }}
{{- if gt (int (dig "sidecarRunAsGroup" 0 .)) 0 }}
- name: SIDECAR_RUN_AS_GROUP
  value: {{ .sidecarRunAsGroup | int | quote }}
{{- end }}
- name: ENABLE_K8S_DOWNWARD_APIS
  value: {{ .enableK8sDownwardAPIs | quote }}
- name: SIDECAR_DROP_ALL_CAPABILITIES
  value: {{ .sidecarDropALLCapabilities | quote }}
- name: SIDECAR_READ_ONLY_ROOT_FILESYSTEM
  value: {{ .sidecarReadOnlyRootFilesystem | quote }}
- name: NATIVE_SIDECAR_ENABLED
  value: {{ .nativeSidecar | quote }}
{{- with dig "sidecarDefaults" dict . }}
- name: SIDECAR_DEFAULTS
  value: {{ toJson . | quote }}
{{- end }}
{{- if dig "strictAnnotations" false . }}
- name: STRICT_ANNOTATIONS
  value: "true"
{{- end }}
{{- if dig "injectionEvents" true . }}
- name: INJECTION_EVENTS
  value: "true"
{{- end }}
{{- if or (include "dapr.guard.enabled" $) (include "dapr.watchdog.enabled" $) }}
# So that guard and watchdog ignore pods that get no sidecar on purpose.
- name: MARK_SKIPPED_PODS
  value: "true"
{{- end }}
{{ include "dapr.namespaceEnv" $ }}
{{- with include "dapr.injector.tolerations" . }}
- name: IGNORE_ENTRYPOINT_TOLERATIONS
  value: {{ . | quote }}
{{- end }}
- name: ACTORS_ENABLED
  value: {{ $global.actors.enabled | quote }}
{{- if $global.actors.enabled }}
- name: ACTORS_SERVICE_NAME
  value: placement
- name: ACTORS_SERVICE_ADDRESS
  value: dapr-placement-server:{{ $.Values.dapr_placement.ports.apiPort }}
{{- end }}
{{- if include "dapr.scheduler.enabled" $ }}
# Sidecars before 1.15 get the address of each pod. Dapr's own has three.
- name: SCHEDULER_REPLICAS
  value: {{ include "dapr.scheduler.replicas" $ | quote }}
{{- end }}
{{- with .allowedServiceAccounts }}
- name: ALLOWED_SERVICE_ACCOUNTS
  value: {{ . | quote }}
{{- end }}
{{- with .allowedServiceAccountsPrefixNames }}
- name: ALLOWED_SERVICE_ACCOUNTS_PREFIX_NAMES
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* JSON, from a list or from text. Dapr's chart escapes its text twice, and `--reuse-values` brings that here. */}}
{{- define "dapr.injector.tolerations" -}}
{{- if kindIs "string" .ignoreEntrypointTolerations -}}
{{- .ignoreEntrypointTolerations | replace "\\\"" "\"" -}}
{{- else if .ignoreEntrypointTolerations -}}
{{- toJson .ignoreEntrypointTolerations -}}
{{- end -}}
{{- end -}}

{{/* The CA of the API server's client certificate, where one is asked for. */}}
{{- define "dapr.injector.mounts" -}}
{{- if dig "clientCA" "configMap" "" .Values.dapr_sidecar_injector -}}
- {name: client-ca, mountPath: /var/run/secrets/trilby/client-ca, readOnly: true}
{{- end -}}
{{- end -}}

{{- define "dapr.injector.volumes" -}}
{{- with dig "clientCA" "configMap" "" .Values.dapr_sidecar_injector -}}
- {name: client-ca, configMap: {name: {{ . | quote }}}}
{{- end -}}
{{- end -}}
