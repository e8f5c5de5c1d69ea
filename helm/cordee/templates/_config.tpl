{{/* The coordinator's configuration file (coordinator/cordee/coordinator/config.py), and where its files are. */}}
{{- define "cordee.config" -}}
{{- $address := printf "%s.%s.svc" (include "cordee.fullname" .) .Release.Namespace -}}
{{- $tls := include "cordee.tls" . -}}
{{- $config := dict
    "apiVersion" "cordee.dev/v1alpha1"
    "kind" "CoordinatorConfig"
    "state" "/var/lib/cordee"
    "launcher" "kubernetes"
    "listen" (dict "host" .Values.coordinator.host "restPort" 8470 "grpcPort" 8471 "metricsPort" 9090)
    "advertise" (dict "rest" (printf "%s://%s:8470" (ternary "https" "http" (ne $tls "")) $address)
        "grpc" (printf "%s:8471" $address)) -}}

{{- if not $tls -}}
{{- $_ := set $config.listen "insecure" true -}}
{{- end -}}

{{- $auth := dict "tokenFile" "/var/run/secrets/cordee/token/token" "metricsTokenFile" "/var/run/secrets/cordee/metrics/token" -}}
{{- $tokens := list -}}
{{- range .Values.auth.tokens -}}
{{- $tokens = append $tokens (dict "name" .name "file" (printf "/var/run/secrets/cordee/tokens/%s" .name)
    "role" (.role | default "viewer")) -}}
{{- end -}}
{{- if $tokens -}}{{- $_ := set $auth "tokens" $tokens -}}{{- end -}}
{{- with .Values.auth.tokenReview -}}
{{- if .enabled -}}{{- $_ := set $auth "tokenReview" (dict "audiences" .audiences) -}}{{- end -}}
{{- end -}}
{{- with .Values.auth.oidc -}}
{{- if .issuer -}}
{{- $oidc := dict "issuer" .issuer "audience" .audience "usernameClaim" .usernameClaim "role" .role -}}
{{- if .groupsClaim -}}{{- $_ := set $oidc "groupsClaim" .groupsClaim -}}{{- end -}}
{{- range $field := list "groups" "editorGroups" "adminGroups" -}}
{{- with index $.Values.auth.oidc $field -}}{{- $_ := set $oidc $field . -}}{{- end -}}
{{- end -}}
{{- if .authorityConfigMap -}}{{- $_ := set $oidc "authority" "/etc/cordee/oidc/ca.crt" -}}{{- end -}}
{{- $_ := set $auth "oidc" $oidc -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config "auth" $auth -}}

{{- $kubernetes := dict
    "instance" .Release.Name
    "image" (include "cordee.image" (list . .Values.workers.image))
    "imagePullPolicy" (include "cordee.pullPolicy" (list . .Values.workers.image))
    "serviceAccount" (include "cordee.workers.serviceAccount" .)
    "maxWorkers" (int .Values.workers.maxWorkers)
    "networkPolicies" (and .Values.networkPolicy.enabled .Values.networkPolicy.perJob)
    "allowedSecrets" .Values.workers.allowedSecrets
    "protectedSecrets" (include "cordee.protected" . | fromYamlArray)
    "protectedClaims" (list (include "cordee.claim" .)) -}}
{{- with .Values.image.pullSecrets -}}{{- $_ := set $kubernetes "imagePullSecrets" . -}}{{- end -}}
{{- with .Values.workers.allowedServiceAccounts -}}{{- $_ := set $kubernetes "allowedServiceAccounts" . -}}{{- end -}}
{{- with .Values.workers.pod -}}{{- $_ := set $kubernetes "pod" . -}}{{- end -}}
{{- $storage := dict -}}
{{- with .Values.storage.url -}}{{- $_ := set $storage "url" . -}}{{- end -}}
{{- with .Values.storage.existingSecret -}}{{- $_ := set $storage "secret" . -}}{{- end -}}
{{- with .Values.storage.existingClaim -}}{{- $_ := set $storage "claim" . -}}{{- end -}}
{{- if $storage -}}{{- $_ := set $kubernetes "storage" $storage -}}{{- end -}}

{{- if $tls -}}
{{- $files := dict "certificate" "/var/run/secrets/cordee/tls/tls.crt" "key" "/var/run/secrets/cordee/tls/tls.key" -}}
{{- with .Values.tls.authorityKey -}}
{{- $_ := set $files "authority" (printf "/var/run/secrets/cordee/tls/%s" .) -}}
{{- $_ := set $kubernetes "authority" (dict "name" (include "cordee.tls.secret" $) "key" .) -}}
{{- end -}}
{{- if .Values.tls.mutual.enabled -}}
{{- $_ := set $files "clientAuthority" "/var/run/secrets/cordee/client-authority/ca.crt" -}}
{{- $_ := set $kubernetes "clientCertificate" (include "cordee.mutual.client" .) -}}
{{- end -}}
{{- $_ := set $config "tls" $files -}}
{{- end -}}
{{- $_ := set $config "kubernetes" $kubernetes -}}

{{- $retention := dict "maxJobs" nil "maxAgeDays" nil -}}
{{- with .Values.retention.maxJobs -}}{{- $_ := set $retention "maxJobs" (int .) -}}{{- end -}}
{{- with .Values.retention.maxAgeDays -}}{{- $_ := set $retention "maxAgeDays" . -}}{{- end -}}
{{- $_ := set $config "retention" $retention -}}

{{- if .Values.database.existingSecret -}}
{{- $_ := set $config "database" (dict "urlFile" "/var/run/secrets/cordee/database/url") -}}
{{- end -}}
{{- if gt (int .Values.coordinator.replicas) 1 -}}
{{- with .Values.leaderElection -}}
{{- $_ := set $config "leaderElection" (dict "lease" (include "cordee.fullname" $) "durationSeconds" .durationSeconds
    "renewSeconds" .renewSeconds "retrySeconds" .retrySeconds) -}}
{{- end -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config .Values.coordinator.config) -}}
{{- end -}}

{{/* The Secrets and ConfigMaps that no job may mount or read. */}}
{{- define "cordee.protected" -}}
{{- $names := list (include "cordee.token.secret" .) (include "cordee.metricsToken.secret" .) -}}
{{- if include "cordee.tls" . -}}{{- $names = append $names (include "cordee.tls.secret" .) -}}{{- end -}}
{{- with .Values.database.existingSecret -}}{{- $names = append $names . -}}{{- end -}}
{{- if .Values.tls.mutual.enabled -}}
{{- $names = append $names (include "cordee.mutual.authority" .) -}}
{{- $names = append $names (include "cordee.mutual.client" .) -}}
{{- end -}}
{{- range .Values.auth.tokens -}}{{- $names = append $names .existingSecret -}}{{- end -}}
{{- if and (eq (toString .Values.tls.mode) "certManager") (not .Values.tls.certManager.issuerRef) -}}
{{- $names = append $names (include "cordee.name" (list . "authority")) -}}
{{- end -}}
{{- $names = append $names (include "cordee.name" (list . "config")) -}}
{{- toYaml (concat $names .Values.workers.protectedSecrets | uniq) -}}
{{- end -}}
