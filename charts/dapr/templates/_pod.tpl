{{/*
The pod template that the services share. Takes

  root, svc      the chart's scope; the service's key in the values
  key            name in `global.extra*` and value of dapr.io/control-plane, by which sentry knows the service
  app            label `app`, name of the container
  serviceAccount
  image, command
  args, env, ports, mounts, volumes   YAML lists, as text
  annotations    the user's pod annotations
  trusts         "true": mount the trust anchors and the token with which the service asks sentry for its identity
  replicas       number of pods; anti-affinity and spread for more than one
  apart          "true": anti-affinity for one pod too
  fsGroup        group of the volumes; nothing leaves it out
*/}}
{{- define "dapr.podTemplate" -}}
{{- $values := index .root.Values .svc -}}
{{- $global := .root.Values.global -}}
{{- $labels := include "dapr.labels" . | fromYaml -}}
{{- $scrape := include "dapr.scrapeAnnotations" . | fromYaml -}}
metadata:
  labels:
    {{- toYaml (mergeOverwrite (dict) $labels ($global.labels | default dict) (dict "app" .app)) | nindent 4 }}
  annotations:
    {{- toYaml (mergeOverwrite (dict) $scrape (.annotations | default dict) (dict "dapr.io/control-plane" .key)) | nindent 4 }}
spec:
  serviceAccountName: {{ .serviceAccount }}
  {{- if dig "hostNetwork" false $values }}
  hostNetwork: true
  # Otherwise the pod uses the node's resolver, which resolves no Service.
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with include "dapr.podSecurity" (dict "global" $global "fsGroup" .fsGroup) | trim }}
  securityContext:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with index ($global.initContainers | default dict) .key }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .app }}
      image: {{ .image | quote }}
      imagePullPolicy: {{ $global.imagePullPolicy }}
      command: [{{ .command | quote }}]
      args:
        {{- .args | trim | nindent 8 }}
      env:
        {{- .env | trim | nindent 8 }}
      ports:
        {{- .ports | trim | nindent 8 }}
        {{- if $global.prometheus.enabled }}
        - name: metrics
          containerPort: {{ .port | default $global.prometheus.port }}
          protocol: TCP
        {{- end }}
      livenessProbe:
        {{- include "dapr.probe" (dict "probe" $values.livenessProbe "path" "/livez" "port" (dig "healthzPort" 8080 $values)) | nindent 8 }}
      readinessProbe:
        {{- include "dapr.probe" (dict "probe" $values.readinessProbe "path" "/healthz" "port" (dig "healthzPort" 8080 $values)) | nindent 8 }}
      {{- with include "dapr.resources" . | fromYaml }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- if dig "securityContext" "runAsNonRoot" (dig "runAsNonRoot" false $values) $values }}
        runAsNonRoot: true
        {{- else if eq .key "injector" }}
        runAsUser: 1000
        {{- else }}
        runAsNonRoot: false
        {{- end }}
        {{- include "dapr.containerSecurity" $global | nindent 8 }}
      {{- with include "dapr.mounts" . | trim }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
    {{- /* After the service: the CLI reads container 0. */}}
    {{- with index ($global.extraContainers | default dict) .key }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "dapr.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
  affinity:
    {{- include "dapr.affinity" . | trim | nindent 4 }}
  {{- if gt (int .replicas) 1 }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          app: {{ $.app }}
    {{- end }}
  {{- end }}
  {{- with include "dapr.placing" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Shared by pods of services and of hooks: pull secrets, scheduling and priority. */}}
{{- define "dapr.placing" -}}
{{- $global := .Values.global -}}
{{- with include "dapr.imagePullSecrets" $global | trim }}
imagePullSecrets:
  {{- . | nindent 2 }}
{{- end }}
{{- with $global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "dapr.priorityClassName" . }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes probe, path and port. Liveness asks /livez, that is whether the process answers: a service that waits for a
usable CA is not ready, and a restart does not help it. */}}
{{- define "dapr.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
initialDelaySeconds: {{ .probe.initialDelaySeconds }}
periodSeconds: {{ .probe.periodSeconds }}
failureThreshold: {{ .probe.failureThreshold }}
{{- end -}}

{{/* On the pod, so that extra containers are covered too. */}}
{{- define "dapr.podSecurity" -}}
{{- with .fsGroup }}
fsGroup: {{ . }}
{{- end }}
{{- with dig "podSeccompProfile" "RuntimeDefault" .global }}
seccompProfile:
  type: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes global. */}}
{{- define "dapr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- with .seccompProfile }}
seccompProfile:
  type: {{ . }}
{{- end }}
{{- end -}}

{{/* Trust anchors, and the token for sentry. Takes root and trusts. */}}
{{- define "dapr.trustMounts" -}}
{{- if .trusts }}
- name: dapr-trust-bundle
  mountPath: /var/run/secrets/dapr.io/tls
  readOnly: true
{{- if .root.Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  mountPath: /var/run/secrets/dapr.io/sentrytoken
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.mounts" -}}
{{ include "dapr.trustMounts" . }}
{{ .mounts }}
{{- with index (.root.Values.global.extraVolumeMounts | default dict) .key }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "dapr.trustVolumes" -}}
{{- if .trusts }}
- name: dapr-trust-bundle
  configMap:
    name: dapr-trust-bundle
{{- if .root.Values.global.mtls.mountSentryVolume }}
- name: dapr-identity-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 600
          audience: spiffe://{{ include "dapr.trustDomain" .root }}/ns/{{ .root.Release.Namespace }}/dapr-sentry
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.volumes" -}}
{{ include "dapr.trustVolumes" . }}
{{ .volumes }}
{{- with index (.root.Values.global.extraVolumes | default dict) .key }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Takes global. */}}
{{- define "dapr.nodeAffinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: kubernetes.io/os
            operator: In
            values: [{{ .daprControlPlaneOs | default "linux" }}]
          {{- with .daprControlPlaneArch }}
          - key: kubernetes.io/arch
            operator: In
            values: [{{ . }}]
          {{- end }}
{{- end -}}

{{- define "dapr.affinity" -}}
{{- $global := .root.Values.global -}}
{{ include "dapr.nodeAffinity" $global }}
{{- if or .apart (gt (int .replicas) 1) }}
podAntiAffinity:
  {{- if eq $global.ha.podAntiAffinityPolicy "requiredDuringSchedulingIgnoredDuringExecution" }}
  requiredDuringSchedulingIgnoredDuringExecution:
    - {{- include "dapr.antiAffinityTerm" . | nindent 6 }}
  {{- else }}
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        {{- include "dapr.antiAffinityTerm" . | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.antiAffinityTerm" -}}
labelSelector:
  matchExpressions:
    - key: app
      operator: In
      values: [{{ .app }}]
topologyKey: {{ .root.Values.global.ha.topologyKey }}
{{- end -}}

{{/* Takes global. A string, a list of strings, or a list of {name: ...}. */}}
{{- define "dapr.imagePullSecrets" -}}
{{- $secrets := .imagePullSecrets -}}
{{- if kindIs "string" $secrets -}}{{- $secrets = compact (list $secrets) -}}{{- end -}}
{{- range $secrets }}
- name: {{ kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") . }}
{{- end }}
{{- end -}}

{{/*
Environment: head, then the user's extraEnvVars, then tail (YAML lists as text). A name that the user gives replaces
ours: Kubernetes allows a name once only when it merges lists.
*/}}
{{- define "dapr.env" -}}
{{- $extra := .extra | default dict -}}
{{- $names := keys $extra -}}
{{- range fromYamlArray .head }}
{{- if not (has .name $names) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- range $name, $value := $extra }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- range fromYamlArray (.tail | default "[]") }}
{{- if not (has .name $names) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.logArgs" -}}
- --log-level
- {{ .values.logLevel }}
{{- if .root.Values.global.logAsJson }}
- --log-as-json
{{- end }}
{{- end -}}

{{/* Takes root and, optionally, port. */}}
{{- define "dapr.metricsArgs" -}}
{{- if .root.Values.global.prometheus.enabled -}}
- --enable-metrics
- --metrics-port
- {{ .port | default .root.Values.global.prometheus.port | quote }}
{{- else -}}
- --enable-metrics=false
{{- end -}}
{{- end -}}

{{- define "dapr.namespaceEnv" -}}
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{/* Number of pods of operator, injector and sentry. */}}
{{- define "dapr.replicas" -}}
{{- if include "dapr.ha.enabled" .root -}}
{{- .root.Values.global.ha.replicaCount -}}
{{- else -}}
{{- dig "replicaCount" 1 (index .root.Values .svc) -}}
{{- end -}}
{{- end -}}

{{/* Takes root, svc, name and app. Selects by `app` alone: other labels change during an upgrade. With alone, for a service of
one pod: a budget that keeps one available would hold up the drain of its node for ever. */}}
{{- define "dapr.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "dapr.metadata" . | nindent 2 }}
spec:
  {{- if .alone }}
  maxUnavailable: 1
  {{- else }}
  {{- with .root.Values.global.ha.disruption }}
  {{- if ne (toString .minimumAvailable) "" }}
  minAvailable: {{ .minimumAvailable }}
  {{- end }}
  {{- if ne (toString .maximumUnavailable) "" }}
  maxUnavailable: {{ .maximumUnavailable }}
  {{- end }}
  {{- end }}
  {{- end }}
  # A pod that is not ready must not block the drain of its node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      app: {{ .app }}
{{- end -}}

{{/*
How pods of a Deployment are replaced: the new one first, so that there is no gap; where two cannot be on one node, the
old one first. Takes root, svc and replicas.
*/}}
{{- define "dapr.rollout" -}}
{{- $required := eq .root.Values.global.ha.podAntiAffinityPolicy "requiredDuringSchedulingIgnoredDuringExecution" -}}
{{- $oldFirst := or (dig "hostNetwork" false (index .root.Values .svc)) (and $required (gt (int .replicas) 1)) -}}
strategy:
  rollingUpdate:
    maxUnavailable: {{ $oldFirst | ternary 1 0 }}
    maxSurge: {{ $oldFirst | ternary 0 1 }}
{{- end -}}
