package openapi

// alertmanagerOperations returns the descriptions of the routes of Alertmanagers.
func alertmanagerOperations() map[string]description {
	plain := func(summary string, arguments ...argument) description {
		return description{summary: summary, parameters: arguments, answers: []string{"application/json"}}
	}
	post := func(summary, body string) description {
		return description{summary: summary, body: body, answers: []string{"application/json"}}
	}
	filter := argument{name: "filter", repeated: true, text: "Only those that this matcher selects."}
	receiver := argument{name: "receiver", text: "Only alerts for receivers whose name matches this regular expression."}
	alerts := []argument{filter, receiver,
		{name: "active", kind: "boolean", text: "Include active alerts; default true."},
		{name: "silenced", kind: "boolean", text: "Include silenced alerts; default true."},
		{name: "inhibited", kind: "boolean", text: "Include inhibited alerts; default true."}}
	return map[string]description{
		"alertmanager_config":        yamlText("Read the configuration of the Alertmanager."),
		"set_alertmanager_config":    post("Replace the configuration of the Alertmanager.", "application/yaml"),
		"delete_alertmanager_config": text("Delete the configuration of the Alertmanager."),
		"alertmanager_attempts":      json("List receivers with the last attempt to notify of each integration."),
		"alertmanager_secrets":       json("List the names of the secrets of receivers."),
		"set_alertmanager_secret":    post("Set a secret of receivers; its value is the body.", "application/octet-stream"),
		"delete_alertmanager_secret": plain("Delete a secret of receivers."),
		"alertmanager_page":          {summary: "Show alerts, silences and receivers.", answers: []string{"text/html"}},
		"alertmanager_status":        plain("Show the status and the configuration of the Alertmanager."),
		"alertmanager_receivers":     plain("List receivers."),
		"alertmanager_alerts":        plain("List alerts of the Alertmanager.", alerts...),
		"alertmanager_push":          post("Send alerts to the Alertmanager.", "application/json"),
		"alertmanager_groups":        plain("List groups of alerts of the Alertmanager.", alerts...),
		"silences":                   plain("List silences.", filter),
		"set_silence":                post("Create or change a silence.", "application/json"),
		"silence":                    plain("Read a silence."),
		"delete_silence":             text("End a silence."),
		"alertmanager_buildinfo":     json("Show the version and the features of the Alertmanager."),
	}
}
