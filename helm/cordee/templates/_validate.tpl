{{/* What the schema cannot say: fields that contradict each other. All of it at once, each with what to do. */}}
{{- define "cordee.validate" -}}
{{- $problems := list -}}
{{- $tls := toString .Values.tls.mode -}}
{{- if and (eq $tls "existingSecret") (not .Values.tls.existingSecret) -}}
{{- $problems = append $problems "tls.mode is existingSecret: name the Secret in tls.existingSecret" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret (ne $tls "existingSecret") -}}
{{- $problems = append $problems (printf "tls.existingSecret is given, but tls.mode is %s: set tls.mode to existingSecret" $tls) -}}
{{- end -}}
{{- with .Values.tls.mutual -}}
{{- if .enabled -}}
{{- if not (include "cordee.tls" $) -}}
{{- $problems = append $problems "tls.mutual is enabled, but tls.mode is off: choose another mode" -}}
{{- end -}}
{{- if and (eq $tls "existingSecret") (not .clientSecret) -}}
{{- $problems = append $problems "tls.mutual is enabled, and the certificates are yours: name the Secret with the workers' one in tls.mutual.clientSecret" -}}
{{- end -}}
{{- if and .authoritySecret (not .clientSecret) -}}
{{- $problems = append $problems "tls.mutual.authoritySecret signs the clients' certificates: name the Secret with the workers' one in tls.mutual.clientSecret" -}}
{{- end -}}
{{- if not (or .authoritySecret $.Values.tls.authorityKey) -}}
{{- $problems = append $problems "tls.mutual is enabled, but no authority is named: set tls.mutual.authoritySecret" -}}
{{- end -}}
{{- else if or .authoritySecret .clientSecret -}}
{{- $problems = append $problems "tls.mutual has Secrets, but is not enabled: set tls.mutual.enabled, or remove them" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $tls "certManager") (include "cordee.live" .) (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) -}}
{{- $problems = append $problems "tls.mode is certManager, but this cluster has no cert-manager.io/v1: install cert-manager, or choose selfSigned or existingSecret" -}}
{{- end -}}
{{- if gt (int .Values.coordinator.replicas) 1 -}}
{{- if not .Values.database.existingSecret -}}
{{- $problems = append $problems (printf "coordinator.replicas is %d, but SQLite is for one coordinator: name a PostgreSQL URL's Secret in database.existingSecret" (int .Values.coordinator.replicas)) -}}
{{- end -}}
{{- if not .Values.persistence.enabled -}}
{{- $problems = append $problems "several coordinators need the state folder in common (sources, logs, results): set persistence.enabled" -}}
{{- else if and (not .Values.persistence.existingClaim) (not (has "ReadWriteMany" .Values.persistence.accessModes)) -}}
{{- $problems = append $problems "several coordinators need the state folder in common: set persistence.accessModes to [ReadWriteMany], or name a claim in persistence.existingClaim" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.storage.url .Values.storage.existingClaim -}}
{{- $problems = append $problems "storage.url and storage.existingClaim are both given: checkpoints go to one place, remove one of them" -}}
{{- end -}}
{{- if and .Values.storage.existingSecret (not .Values.storage.url) -}}
{{- $problems = append $problems "storage.existingSecret holds the credentials of storage.url, which is empty: give it, or remove the Secret" -}}
{{- end -}}
{{- range $what := list "token" "metricsToken" -}}
{{- $secret := get $.Values.auth $what -}}
{{- if and $secret.existingSecret $secret.value -}}
{{- $problems = append $problems (printf "auth.%s has both value and existingSecret: remove one of them" $what) -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- range .Values.auth.tokens -}}
{{- if hasKey $names .name -}}
{{- $problems = append $problems (printf "auth.tokens names %s twice: names tell tokens apart" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
{{- $problems = append $problems "metrics.serviceMonitor and metrics.podMonitor are both enabled: every series would be there twice, choose one" -}}
{{- end -}}
{{- if and (or .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled .Values.metrics.prometheusRule.enabled) (include "cordee.live" .) (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
{{- $problems = append $problems "metrics asks for monitors or rules, but this cluster has no monitoring.coreos.com/v1: install the Prometheus operator, or disable them" -}}
{{- end -}}
{{- if not (or .Values.rbac.create .Values.coordinator.serviceAccount.name) -}}
{{- $problems = append $problems "rbac.create is false: name a service account that has the rights in coordinator.serviceAccount.name" -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n\nThese values do not go together:\n- %s\n" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}
