{{/* An image of ours: (dict "root" $ "name" "c4-agent"). */}}
{{- define "c4.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* What no schema can say. */}}
{{- define "c4.check" -}}
{{- if and (gt (int .Values.controller.replicas) 1) (not .Values.ha.etcd) }}
{{- fail "controller.replicas: several controllers need an etcd that they share: give its members in ha.etcd" }}
{{- end }}
{{- range .Values.ha.etcd }}
{{- if and (hasPrefix "https://" .) (not $.Values.ha.tlsSecret) }}
{{- fail (printf "ha.tlsSecret: is required for %s: whom to believe" .) }}
{{- end }}
{{- end }}
{{- if and .Values.actuator.enabled (not .Values.actuator.namespaces) }}
{{- fail "actuator.namespaces: is required: where the jobs are" }}
{{- end }}
{{- end }}

{{/* Where the controller of an index is reached: (dict "root" $ "index" 0). */}}
{{- define "c4.member" -}}
https://c4-controller-{{ .index }}.c4-controllers.{{ .root.Release.Namespace }}.svc:4400
{{- end }}

{{/* Whether agents may speak for nodes by one name that all share. */}}
{{- define "c4.shared" -}}
{{- if and .Values.agent.sharedCertificate (not .Values.agent.tlsVolume) }}yes{{ end }}
{{- end }}

{{/* The controller's configuration: (dict "root" $ "index" 0); without an index, of the only one. */}}
{{- define "c4.controllerConfig" -}}
{{- $values := .root.Values }}
{{- $certificates := deepCopy $values.controller.certificates }}
{{- if include "c4.shared" .root }}
{{- $_ := set $certificates $values.agent.sharedCertificate "agent" }}
{{- end }}
{{- $access := dict "certificates" $certificates }}
{{- if $values.controller.tokensSecret }}
{{- $_ := set $access "tokens" "/tokens/tokens" }}
{{- end }}
{{- $config := dict "listen" "0.0.0.0:4400" "http" "0.0.0.0:4401" "access" $access "log" (dict "format" "json") }}
{{- $_ := set $config "tls" (dict "certificate" "/tls/tls.crt" "key" "/tls/tls.key" "client_ca" "/tls/ca.crt") }}
{{- if $values.ha.etcd }}
{{- $ha := dict "etcd" $values.ha.etcd "prefix" $values.ha.prefix "lease_seconds" (int $values.ha.leaseSeconds) }}
{{- $_ := set $ha "name" (printf "c4-controller-%d" .index) }}
{{- $_ := set $ha "address" (include "c4.member" .) }}
{{- if $values.ha.tlsSecret }}
{{- $tls := dict "ca" "/etcd/ca.crt" }}
{{- if $values.ha.clientCertificate }}
{{- $_ := set $tls "certificate" "/etcd/tls.crt" }}
{{- $_ := set $tls "key" "/etcd/tls.key" }}
{{- end }}
{{- $_ := set $ha "tls" $tls }}
{{- end }}
{{- $_ := set $config "ha" $ha }}
{{- else }}
{{- $_ := set $config "state" "/var/lib/c4" }}
{{- end }}
{{- with $values.actuator }}
{{- if .enabled }}
{{- $kubernetes := dict "namespaces" .namespaces "jobs" .jobs "evict" .evict "delete_stuck_pods" .deleteStuckPods }}
{{- $steer := dict "mode" .mode "kubernetes" $kubernetes }}
{{- $_ := set $steer "stop_timeout_seconds" (float64 .stopTimeoutSeconds) }}
{{- $_ := set $steer "start_timeout_seconds" (float64 .startTimeoutSeconds) }}
{{- $_ := set $config "steer" $steer }}
{{- end }}
{{- end }}
{{- mergeOverwrite $config (deepCopy $values.controller.config) | toYaml }}
{{- end }}

{{/* The agents' configuration. */}}
{{- define "c4.agentConfig" -}}
{{- $controller := printf "https://c4-controller.%s.svc:4400" .Release.Namespace }}
{{- if .Values.ha.etcd }}
{{- $members := list }}
{{- range $index := until (int .Values.controller.replicas) }}
{{- $members = append $members (include "c4.member" (dict "root" $ "index" $index)) }}
{{- end }}
{{- $controller = $members }}
{{- end }}
{{- $config := dict "controller" $controller "http" "0.0.0.0:4402" "log" (dict "format" "json") }}
{{- $_ := set $config "tls" (dict "ca" "/tls/ca.crt" "certificate" "/tls/tls.crt" "key" "/tls/tls.key") }}
{{- $_ := set $config "recorder_dir" .Values.agent.recorderDir }}
{{- $sensors := dict "nic" (dict "sys_root" "/host/sys") "kmsg" (dict "enabled" .Values.agent.kernelLog) }}
{{- $_ := set $config "sensors" $sensors }}
{{- mergeOverwrite $config (deepCopy .Values.agent.config) | toYaml }}
{{- end }}
