{{- define "windshift.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 54 | trimSuffix "-" -}}
{{- end -}}

{{- define "windshift.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else if contains (include "windshift.name" .) .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "windshift.name" .) | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "windshift.selector" -}}
app.kubernetes.io/name: {{ include "windshift.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "windshift.labels" -}}
{{ include "windshift.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "windshift.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "windshift.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "windshift.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" when the server embeds its own NATS. */}}
{{- define "windshift.embedded" -}}
{{- if not (or .Values.nats.url .Values.nats.urlSecret.name) -}}true{{- end -}}
{{- end -}}

{{/* Refuse what would not work, in words. */}}
{{- define "windshift.check" -}}
{{- if and (include "windshift.embedded" .) (gt (int .Values.replicas) 1) -}}
{{- fail "replicas: the embedded NATS is one server; for more of Windshift's, run NATS beside it and set nats.url" -}}
{{- end -}}
{{- if and .Values.nats.url .Values.nats.urlSecret.name -}}
{{- fail "nats: set url or urlSecret.name, not both" -}}
{{- end -}}
{{- with .Values.nats -}}
{{- if gt (len (without (list .credentialsSecret.name .nkeySecret.name .passwordSecret.name) "")) 1 -}}
{{- fail "nats: set one of credentialsSecret, nkeySecret and passwordSecret" -}}
{{- end -}}
{{- if and (contains "@" .url) (not .passwordSecret.name) -}}
{{- fail "nats.url: a token belongs in a secret (urlSecret); a user needs passwordSecret" -}}
{{- end -}}
{{- end -}}
{{- if not (or .Values.authorization.secret.name .Values.authorization.insecure) -}}
{{- fail "authorization.secret.name: name the secret with the authorization file (docs/authorization.md); or set authorization.insecure=true to let everybody who reaches the port do everything" -}}
{{- end -}}
{{- if and .Values.tls.clientAuth (not .Values.tls.secret) -}}
{{- fail "tls.clientAuth: needs tls.secret" -}}
{{- end -}}
{{- range $name := list "GRPC_HOST" "GRPC_PORT" "HEALTH_HOST" "HEALTH_PORT" "NATS_URL" "WINDSHIFT_AUTH_FILE" "WINDSHIFT_INSECURE" "WINDSHIFT_DATA_DIR" "WINDSHIFT_DRAIN_TIMEOUT" "WINDSHIFT_NATS_STOP_TIMEOUT" "GRPC_MAX_CONNECTION_AGE" -}}
{{- if hasKey $.Values.env $name -}}
{{- fail (printf "env.%s: the chart sets it by a value of its own, see values.yaml" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "windshift.env" -}}
- { name: GRPC_HOST, value: "0.0.0.0" }
- { name: HEALTH_HOST, value: "0.0.0.0" }
- { name: WINDSHIFT_INSECURE, value: {{ .Values.authorization.insecure | quote }} }
- { name: WINDSHIFT_DRAIN_TIMEOUT, value: {{ .Values.drainTimeout | quote }} }
- { name: GRPC_MAX_CONNECTION_AGE, value: {{ .Values.maxConnectionAge | quote }} }
{{- if .Values.authorization.secret.name }}
- { name: WINDSHIFT_AUTH_FILE, value: /etc/windshift/authorization/{{ .Values.authorization.secret.key }} }
{{- end }}
{{- if .Values.tls.secret }}
- { name: GRPC_TLS_CERT, value: /etc/windshift/tls/tls.crt }
- { name: GRPC_TLS_KEY, value: /etc/windshift/tls/tls.key }
{{- with .Values.tls.clientAuth }}
- { name: GRPC_TLS_CLIENT_CA, value: /etc/windshift/tls/ca.crt }
- { name: GRPC_TLS_CLIENT_AUTH, value: {{ . }} }
{{- end }}
{{- end }}
{{- if include "windshift.embedded" . }}
- { name: WINDSHIFT_NATS_STOP_TIMEOUT, value: {{ .Values.natsStopTimeout | quote }} }
{{- else }}
{{- with .Values.nats }}
{{- if .url }}
- { name: NATS_URL, value: {{ .url | quote }} }
{{- else }}
- name: NATS_URL
  valueFrom: { secretKeyRef: { name: {{ .urlSecret.name }}, key: {{ .urlSecret.key }} } }
{{- end }}
{{- if .credentialsSecret.name }}
- { name: NATS_CREDS, value: /etc/windshift/nats/{{ .credentialsSecret.key }} }
{{- else if .nkeySecret.name }}
- { name: NATS_NKEY, value: /etc/windshift/nats/{{ .nkeySecret.key }} }
{{- else if .passwordSecret.name }}
- { name: NATS_PASSWORD_FILE, value: /etc/windshift/nats/{{ .passwordSecret.key }} }
{{- end }}
{{- if .tls.secret }}
- { name: NATS_TLS_CA, value: /etc/windshift/nats-tls/ca.crt }
{{- if .tls.clientCertificate }}
- { name: NATS_TLS_CERT, value: /etc/windshift/nats-tls/tls.crt }
- { name: NATS_TLS_KEY, value: /etc/windshift/nats-tls/tls.key }
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.env }}
- { name: {{ $name }}, value: {{ $value | toString | quote }} }
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Secrets as mounted directories, whole: a mounted single file would not follow a rotation. */}}
{{- define "windshift.secrets" -}}
{{- $secrets := dict -}}
{{- with .Values.authorization.secret.name }}{{ $_ := set $secrets "authorization" . }}{{ end -}}
{{- with .Values.tls.secret }}{{ $_ := set $secrets "tls" . }}{{ end -}}
{{- if not (include "windshift.embedded" .) -}}
{{- with .Values.nats }}
{{- with coalesce .credentialsSecret.name .nkeySecret.name .passwordSecret.name }}{{ $_ := set $secrets "nats" . }}{{ end -}}
{{- with .tls.secret }}{{ $_ := set $secrets "nats-tls" . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}
