{{/*
Values that this chart does not know. Dapr's charts ignore unknown keys, so values files of years hold many: they must
render, and the notes name them. A key that differs from a known one in about one character is a misspelling, which would
silently leave the default in place: it is refused.
*/}}

{{/* Lines of the paths that are unknown, each followed by the known key that its last part is close to, if any. Takes known
(a tree of keys; an empty one ends the comparison), values and path. */}}
{{- define "dapr.values.unknown" -}}
{{- $in := . -}}
{{- range $key := keys $in.values | sortAlpha -}}
{{- $path := printf "%s%s" $in.path $key -}}
{{- if hasKey $in.known $key -}}
{{- $below := get $in.known $key -}}
{{- $value := get $in.values $key -}}
{{- if and $below (kindIs "map" $value) -}}
{{- include "dapr.values.unknown" (dict "known" $below "values" $value "path" (printf "%s." $path)) -}}
{{- end -}}
{{- else -}}
{{- printf "%s %s\n" $path (include "dapr.values.nearest" (dict "word" $key "known" (keys $in.known))) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The known key that a word is close to, or nothing. Takes word and known. Short keys are close to too many words. */}}
{{- define "dapr.values.nearest" -}}
{{- $slips := include "dapr.values.slips" .word | splitList "," -}}
{{- $nearest := "" -}}
{{- range $known := .known | sortAlpha -}}
{{- if and (not $nearest) (ge (len $known) 5) -}}
{{- range $slip := include "dapr.values.slips" $known | splitList "," -}}
{{- if has $slip $slips -}}{{- $nearest = $known -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $nearest -}}
{{- end -}}

{{/* A word in small letters, and the same without each one of its characters: two words that share one of these differ by a
character that is missing, added, changed or exchanged with its neighbour. */}}
{{- define "dapr.values.slips" -}}
{{- $word := lower . -}}
{{- $slips := list $word -}}
{{- range $i := until (len $word) -}}
{{- $slips = append $slips (printf "%s%s" (substr 0 $i $word) (substr (add1 $i | int) (len $word) $word)) -}}
{{- end -}}
{{- join "," $slips -}}
{{- end -}}

{{/* The unknown values of this release, as lines of dapr.values.unknown. Takes root. */}}
{{- define "dapr.values.ofRelease" -}}
{{- $known := .root.Files.Get "files/known-values.json" | fromJson -}}
{{- include "dapr.values.unknown" (dict "known" $known "values" .root.Values "path" "") -}}
{{- end -}}

{{/*
Gives `.Values.global` its defaults back where a value is null: Terraform, Argo CD and parent charts write null for "not set",
which removes the default, and Dapr's chart renders then. Every template begins with it, because each may be the first.
*/}}
{{- define "dapr.values.fill" -}}
{{- if not (hasKey .Values "global") -}}{{- $_ := set .Values "global" dict -}}{{- end -}}
{{- include "dapr.values.fillMap" (dict "values" .Values.global "defaults" (.Files.Get "files/default-global.json" | fromJson)) -}}
{{- end -}}

{{/* Sets what a map of values lacks. Takes values and defaults. */}}
{{- define "dapr.values.fillMap" -}}
{{- $values := .values -}}
{{- range $key, $default := .defaults -}}
{{- $value := get $values $key -}}
{{- if and (kindIs "map" $default) (kindIs "map" $value) (hasKey $values $key) -}}
{{- include "dapr.values.fillMap" (dict "values" $value "defaults" $default) -}}
{{- else if or (not (hasKey $values $key)) (kindIs "invalid" $value) -}}
{{- $_ := set $values $key (deepCopy $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}
