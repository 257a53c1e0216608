{{/* Labels of every object. */}}
{{- define "prefprobe.labels" -}}
app.kubernetes.io/name: prefprobe
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The reference of an image. Takes (list $ component name): the override of the component, else the named image. */}}
{{- define "prefprobe.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $component := index . 1 -}}
{{- $name := index . 2 -}}
{{- with index $images.overrides $component -}}
{{- . -}}
{{- else -}}
{{- with $images.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $name -}}
{{- with index $images.digests $name }}@{{ . }}{{ else }}:{{ $images.tag | default (index $ 0).Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{/* A pod under the restricted profile, as in argo/templates/. */}}
{{- define "prefprobe.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "prefprobe.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where the S3 server is; empty is AWS. The full name of the Service, because Argo's server reads artifacts too. */}}
{{- define "prefprobe.endpoint" -}}
{{- if .Values.devStore.enabled -}}
http://prefprobe-seaweedfs.{{ .Release.Namespace }}.svc:8333
{{- else -}}
{{- trimSuffix "/" .Values.store.endpoint -}}
{{- end -}}
{{- end }}

{{- define "prefprobe.bucket" -}}
{{- (urlParse .Values.store.url).host -}}
{{- end }}
