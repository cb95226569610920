{{- define "skpr.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end }}{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "skpr.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "skpr.labels" -}}
{{ include "skpr.selector" . }}
app.kubernetes.io/part-of: skpr
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* The Secret whose ca.crt the agents trust. */}}
{{- define "skpr.caSecret" -}}
{{- if eq .Values.tls.mode "self" }}skpr-ca{{ else }}{{ include "skpr.tlsSecret" . }}{{ end }}
{{- end }}

{{- define "skpr.tlsSecret" -}}
{{- if eq .Values.tls.mode "cert-manager" }}skpr-aggregator-tls
{{- else }}{{ required "tls.existingSecret is needed with tls.mode=existingSecret" .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{/* What no container of this chart goes without. */}}
{{- define "skpr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "skpr.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}
