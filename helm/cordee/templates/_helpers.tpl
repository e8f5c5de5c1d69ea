{{/* Names, labels and small pieces that several templates share. */}}

{{/* `<release>-<chart>`, or the release's name alone where it says so already. */}}
{{- define "cordee.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The full name and a suffix, in 63 characters: (list . "metrics"). A name that is cut gets a hash, so that two stay two. */}}
{{- define "cordee.name" -}}
{{- $root := index . 0 -}}
{{- $suffix := index . 1 -}}
{{- $name := printf "%s-%s" (include "cordee.fullname" $root) $suffix -}}
{{- if gt (len $name) 63 -}}
{{- printf "%s-%s" ($name | trunc 54 | trimSuffix "-" | trimSuffix ".") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- define "cordee.selector" -}}
app.kubernetes.io/name: cordee
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* All labels of an object: (list . "component"). What the chart needs wins over what the user adds. */}}
{{- define "cordee.labels" -}}
{{- $root := index . 0 -}}
{{- $ours := dict
    "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
    "app.kubernetes.io/name" "cordee"
    "app.kubernetes.io/instance" $root.Release.Name
    "app.kubernetes.io/version" ($root.Chart.AppVersion | toString)
    "app.kubernetes.io/component" (index . 1)
    "app.kubernetes.io/part-of" "cordee"
    "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- toYaml (merge dict $ours $root.Values.commonLabels) -}}
{{- end -}}

{{/* An object's metadata: (dict "root" . "name" … "component" … "labels" dict "annotations" dict "namespaced" bool). */}}
{{- define "cordee.metadata" -}}
{{- $labels := merge dict (include "cordee.labels" (list .root .component) | fromYaml) (.labels | default dict) -}}
{{- $annotations := merge dict (.annotations | default dict) .root.Values.commonAnnotations -}}
name: {{ .name }}
{{- if not .clusterScoped }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image's reference: (list . .Values.workers.image). A digest beats a tag. */}}
{{- define "cordee.image" -}}
{{- $root := index . 0 -}}
{{- $own := index . 1 | default dict -}}
{{- $image := merge dict $own $root.Values.image -}}
{{- /* A tag of its own is not meant for the digest of the common image. */ -}}
{{- $digest := ternary ($own.digest | default "") $image.digest (or (hasKey $own "tag") (hasKey $own "repository")) -}}
{{- $place := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (ne $image.registry "") -}}
{{- if $digest -}}
{{- printf "%s@%s" $place $digest -}}
{{- else -}}
{{- printf "%s:%s" $place ($image.tag | default $root.Chart.AppVersion | toString) -}}
{{- end -}}
{{- end -}}

{{- define "cordee.pullPolicy" -}}
{{- (index . 1 | default dict).pullPolicy | default (index . 0).Values.image.pullPolicy -}}
{{- end -}}

{{- define "cordee.coordinator.serviceAccount" -}}
{{- with .Values.coordinator.serviceAccount -}}
{{- .name | default (ternary (include "cordee.fullname" $) "default" .create) -}}
{{- end -}}
{{- end -}}

{{- define "cordee.workers.serviceAccount" -}}
{{- with .Values.workers.serviceAccount -}}
{{- .name | default (ternary (include "cordee.name" (list $ "workers")) "default" .create) -}}
{{- end -}}
{{- end -}}

{{/* `off` without quotes is the boolean false, in YAML 1.1. */}}
{{- define "cordee.tls" -}}
{{- if and .Values.tls.mode (ne (toString .Values.tls.mode) "off") -}}true{{- end -}}
{{- end -}}

{{/* A name for each mode, so that a change of mode does not take away what the other one has just made. */}}
{{- define "cordee.tls.secret" -}}
{{- $mode := toString .Values.tls.mode -}}
{{- if eq $mode "existingSecret" -}}
{{- .Values.tls.existingSecret -}}
{{- else -}}
{{- include "cordee.name" (list . (ternary "certificate" "tls" (eq $mode "certManager"))) -}}
{{- end -}}
{{- end -}}

{{/* Mutual TLS: the Secret with what clients are verified by, its entry there, and the Secret of the workers' certificate. */}}
{{- define "cordee.mutual.authority" -}}
{{- .Values.tls.mutual.authoritySecret | default (include "cordee.tls.secret" .) -}}
{{- end -}}

{{- define "cordee.mutual.authorityKey" -}}
{{- ternary .Values.tls.mutual.authorityKey .Values.tls.authorityKey (ne .Values.tls.mutual.authoritySecret "") -}}
{{- end -}}

{{- define "cordee.mutual.client" -}}
{{- .Values.tls.mutual.clientSecret | default (include "cordee.name" (list . "client")) -}}
{{- end -}}

{{- define "cordee.token.secret" -}}
{{- .Values.auth.token.existingSecret | default (include "cordee.name" (list . "token")) -}}
{{- end -}}

{{- define "cordee.metricsToken.secret" -}}
{{- .Values.auth.metricsToken.existingSecret | default (include "cordee.name" (list . "metrics-token")) -}}
{{- end -}}

{{- define "cordee.claim" -}}
{{- .Values.persistence.existingClaim | default (include "cordee.name" (list . "state")) -}}
{{- end -}}

{{/* The names that the coordinator is reached by. */}}
{{- define "cordee.hosts" -}}
{{- $name := include "cordee.fullname" . -}}
{{- $metrics := include "cordee.name" (list . "metrics") -}}
{{- $hosts := list "localhost" -}}
{{- range $service := list $name $metrics -}}
{{- $hosts = concat $hosts (list $service (printf "%s.%s" $service $.Release.Namespace)
    (printf "%s.%s.svc" $service $.Release.Namespace) (printf "%s.%s.svc.cluster.local" $service $.Release.Namespace)) -}}
{{- end -}}
{{- toYaml $hosts -}}
{{- end -}}

{{/* One list of environment variables from two; a name that is in both has the second's value: (list ours theirs). */}}
{{- define "cordee.env" -}}
{{- $result := list -}}
{{- $theirs := dict -}}
{{- range index . 1 -}}
{{- $_ := set $theirs .name . -}}
{{- end -}}
{{- $seen := dict -}}
{{- range concat (index . 0) (index . 1) -}}
{{- if not (hasKey $seen .name) -}}
{{- $result = append $result (get $theirs .name | default .) -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* A secret's value: what was given, else what there is already, else a new one: (list . name key value). */}}
{{- define "cordee.keptSecret" -}}
{{- $root := index . 0 -}}
{{- $given := index . 3 -}}
{{- if $given -}}
{{- $given | b64enc -}}
{{- else -}}
{{- $there := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- get ($there.data | default dict) (index . 2) | default (randAlphaNum 48 | b64enc) -}}
{{- end -}}
{{- end -}}

{{/* Whether a real API server is asked, as in `helm install`: `helm template` knows only the kinds of Kubernetes itself. */}}
{{- define "cordee.live" -}}
{{- if .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1" -}}true{{- end -}}
{{- end -}}

{{/* An egress rule to addresses and ports; without addresses there is no rule. */}}
{{- define "cordee.egress" -}}
{{- if .cidrs -}}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . | quote }}
    {{- end }}
  ports:
    {{- range .ports }}
    - protocol: TCP
      port: {{ int . }}
    {{- end }}
{{- end -}}
{{- end -}}
