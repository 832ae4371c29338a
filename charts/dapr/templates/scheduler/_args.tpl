{{/* "true" when this chart's scheduler is rendered. One that was kept from Dapr's chart takes its place. */}}
{{- define "dapr.scheduler.enabled" -}}
{{- $scheduler := .Values.global.scheduler | default dict -}}
{{- if and (dig "enabled" true $scheduler) (not (dig "external" false $scheduler)) -}}true{{- end -}}
{{- end -}}

{{/* "true" when jobs are in an etcd outside of this chart. */}}
{{- define "dapr.scheduler.externalEtcd" -}}
{{- if not (dig "etcdEmbed" true .Values.dapr_scheduler) -}}true{{- end -}}
{{- end -}}

{{/* Without an external etcd one pod stores jobs itself, and three in an etcd of their own; checks.yaml refuses other
numbers. */}}
{{- define "dapr.scheduler.replicas" -}}
{{- $embedded := eq (dig "storeEngine" "auto" .Values.dapr_scheduler) "embedded" -}}
{{- $several := and (include "dapr.ha.enabled" .) (not $embedded) -}}
{{- dig "replicaCount" nil .Values.dapr_scheduler | default (empty $several | ternary 1 3) -}}
{{- end -}}

{{/* Where the Secret with the files for TLS to an external etcd is mounted. */}}
{{- define "dapr.scheduler.etcdTLSPath" -}}
/var/run/secrets/trilby.dev/etcd
{{- end -}}

{{- define "dapr.scheduler.cluster" -}}
{{- $root := . -}}
{{- $members := list -}}
{{- range $i := until (include "dapr.scheduler.replicas" . | int) -}}
{{- $name := printf "dapr-scheduler-server-%d" $i -}}
{{- $host := printf "%s.dapr-scheduler-server.%s.svc%s" $name $root.Release.Namespace $root.Values.global.dnsSuffix -}}
{{- $members = append $members (printf "%s=https://%s:%d" $name $host (int $root.Values.dapr_scheduler.ports.etcdGRPCPeerPort)) -}}
{{- end -}}
{{- join "," $members -}}
{{- end -}}

{{/* Where the volume is mounted. */}}
{{- define "dapr.scheduler.path" -}}
{{- trimSuffix "/" .Values.dapr_scheduler.cluster.etcdDataDirPath -}}
{{- end -}}

{{/* Names, order and form are those of Dapr's chart, whose image takes the same arguments. The address to listen on is
empty, which is every address of both families. */}}
{{- define "dapr.scheduler.args" -}}
{{- $scheduler := .Values.dapr_scheduler -}}
- --listen-address=
- --id
- $(SCHEDULER_ID)
- --etcd-initial-cluster
- {{ include "dapr.scheduler.cluster" . }}
- --etcd-embed={{ include "dapr.scheduler.externalEtcd" . | empty }}
{{- if $scheduler.metadataEnabled }}
- --metadata-enabled
{{- end }}
{{- if include "dapr.scheduler.externalEtcd" . }}
- --etcd-client-endpoints
- {{ join "," $scheduler.etcdClientEndpoints | quote }}
{{- with $scheduler.etcdClientUsername }}
- --etcd-client-username
- {{ . | quote }}
{{- end }}
{{- with $scheduler.etcdClientPassword }}
- --etcd-client-password
- {{ . | quote }}
{{- end }}
{{- with dig "etcdClientTLS" dict $scheduler }}
{{- $path := include "dapr.scheduler.etcdTLSPath" . }}
{{- if .caSecret }}
- --etcd-client-ca-file={{ $path }}/ca/ca.crt
{{- end }}
{{- if .certificateSecret }}
- --etcd-client-cert-file={{ $path }}/client/tls.crt
- --etcd-client-key-file={{ $path }}/client/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- if ne (dig "storeEngine" "auto" $scheduler) "auto" }}
- --store-engine={{ $scheduler.storeEngine }}
{{- end }}
{{ include "dapr.logArgs" (dict "root" . "values" $scheduler) }}
{{ include "dapr.metricsArgs" (dict "root" .) }}
- --etcd-client-port
- {{ $scheduler.ports.etcdGRPCClientPort | toString | quote }}
- --etcd-data-dir={{ include "dapr.scheduler.path" . }}/{{ .Release.Namespace }}/$(SCHEDULER_ID)
- --etcd-space-quota={{ kindIs "float64" $scheduler.etcdSpaceQuota | ternary (int64 $scheduler.etcdSpaceQuota) $scheduler.etcdSpaceQuota }}
- --etcd-compaction-mode={{ $scheduler.etcdCompactionMode }}
- --etcd-compaction-retention={{ $scheduler.etcdCompactionRetention }}
- --etcd-snapshot-count={{ int64 $scheduler.etcdSnapshotCount }}
- --etcd-max-snapshots={{ int64 $scheduler.etcdMaxSnapshots }}
- --etcd-max-wals={{ int64 $scheduler.etcdMaxWals }}
- --etcd-backend-batch-limit={{ int64 $scheduler.etcdBackendBatchLimit }}
- --etcd-backend-batch-interval={{ $scheduler.etcdBackendBatchInterval }}
- --etcd-max-txn-ops={{ int64 $scheduler.etcdMaxTxnOps }}
- --etcd-experimental-bootstrap-defrag-threshold-megabytes={{ int64 $scheduler.etcdDefragThresholdMB }}
- --etcd-initial-election-tick-advance={{ $scheduler.etcdInitialElectionTickAdvance }}
- --etcd-metrics={{ $scheduler.etcdMetrics }}
- --tls-enabled
- --trust-domain={{ include "dapr.trustDomain" . }}
- --trust-anchors-file=/var/run/secrets/dapr.io/tls/ca.crt
- --sentry-address={{ include "dapr.sentryAddress" . }}
- --mode=kubernetes
- --workers={{ int64 $scheduler.workers }}
{{- with dig "overrideBroadcastHostPort" "" $scheduler }}
- --override-broadcast-host-port={{ . }}
{{- end }}
{{- end -}}

{{- define "dapr.scheduler.env" -}}
- name: SCHEDULER_ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{ include "dapr.namespaceEnv" . }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- with dig "etcdClientPasswordSecret" dict .Values.dapr_scheduler }}
{{- if .name }}
- name: DAPR_SCHEDULER_ETCD_CLIENT_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key | default "password" }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.scheduler.ports" -}}
- name: api
  containerPort: 50006
  protocol: TCP
- name: etcd-client
  containerPort: {{ .Values.dapr_scheduler.ports.etcdGRPCClientPort }}
  protocol: TCP
- name: etcd-peer
  containerPort: {{ .Values.dapr_scheduler.ports.etcdGRPCPeerPort }}
  protocol: TCP
{{- end -}}

{{- define "dapr.scheduler.mounts" -}}
- name: dapr-scheduler-data-dir
  mountPath: {{ include "dapr.scheduler.path" . }}/
- name: dapr-scheduler-writeable-identity
  mountPath: /tmp
{{- with dig "etcdClientTLS" dict .Values.dapr_scheduler }}
{{- $path := include "dapr.scheduler.etcdTLSPath" . }}
{{- if .caSecret }}
- name: etcd-ca
  mountPath: {{ $path }}/ca
  readOnly: true
{{- end }}
{{- if .certificateSecret }}
- name: etcd-client
  mountPath: {{ $path }}/client
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "dapr.scheduler.volumes" -}}
- name: dapr-scheduler-writeable-identity
  emptyDir: {}
{{- if .Values.dapr_scheduler.cluster.inMemoryStorage }}
- name: dapr-scheduler-data-dir
  emptyDir:
    medium: Memory
{{- end }}
{{- with dig "etcdClientTLS" dict .Values.dapr_scheduler }}
{{- with .caSecret }}
- name: etcd-ca
  secret:
    secretName: {{ . }}
{{- end }}
{{- with .certificateSecret }}
- name: etcd-client
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Immutable in Kubernetes, so it equals that of Dapr's chart. */}}
{{- define "dapr.scheduler.claims" -}}
{{- with .Values.dapr_scheduler.cluster -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: dapr-scheduler-data-dir
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .storageClassName }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .storageSize }}
{{- end -}}
{{- end -}}

{{- define "dapr.scheduler.servicePorts" -}}
- name: etcd-client
  port: {{ .Values.dapr_scheduler.ports.etcdGRPCClientPort }}
  targetPort: etcd-client
  protocol: TCP
  appProtocol: tcp
- name: etcd-peer
  port: {{ .Values.dapr_scheduler.ports.etcdGRPCPeerPort }}
  targetPort: etcd-peer
  protocol: TCP
  appProtocol: tls
{{ include "dapr.metricsServicePort" . | trim }}
{{- end -}}

{{/* Jobs of a namespace that is deleted are deleted. Dapr 1.19's scheduler lists pods too, and is never ready without. */}}
{{- define "dapr.scheduler.clusterRules" -}}
- apiGroups: [""]
  resources: [namespaces, pods]
  verbs: [get, list, watch]
{{- end -}}
