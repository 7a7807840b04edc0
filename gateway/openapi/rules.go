package openapi

// ruleOperations returns the descriptions of the routes of rules.
func ruleOperations() map[string]description {
	start := argument{name: "start", required: true, text: "First time: Unix seconds or RFC 3339."}
	end := argument{name: "end", text: "Last time: Unix seconds or RFC 3339; default now."}
	changed := func(summary string, arguments ...argument) description {
		return description{summary: summary, parameters: arguments, answers: []string{"application/json"}, accepted: true, envelope: true}
	}
	set := changed("Create or replace a group of rules.")
	set.body = "application/yaml"
	return map[string]description{
		"rules": json("List rules with their state.",
			argument{name: "type", text: "alert or record: only rules of this type."},
			argument{name: "rule_name[]", repeated: true, text: "Only rules with these names."},
			argument{name: "rule_group[]", repeated: true, text: "Only groups with these names."},
			argument{name: "file[]", repeated: true, text: "Only groups of these namespaces."},
			argument{name: "match[]", repeated: true, text: "Only rules whose labels match one of these selectors."},
			argument{name: "health", repeated: true, text: "Only rules with this health: ok, err or unknown."},
			argument{name: "state", repeated: true, text: "Only alerting rules in this state: inactive, pending, firing or unknown."},
			argument{name: "exclude_alerts", kind: "boolean", text: "Leave out the active alerts."},
			argument{name: "group_limit", kind: "integer", text: "Maximum number of groups in the response."},
			argument{name: "group_next_token", text: "The groupNextToken of the previous response, to get the next groups."}),
		"alerts":                json("List active alerts."),
		"rule_namespaces":       yamlText("List the groups of rules of all namespaces."),
		"rule_namespace":        yamlText("List the groups of rules of a namespace."),
		"rule_group":            yamlText("Read a group of rules."),
		"set_rule_group":        set,
		"delete_rule_namespace": changed("Delete all groups of rules of a namespace."),
		"delete_rule_group":     changed("Delete a group of rules."),
		"start_rule_backfill":   changed("Evaluate the recording rules of a group for a time in the past.", start, end),
		"rule_backfill":         json("Show the progress of a backfill."),
		"delete_rule_backfill":  changed("Delete a backfill; one that is running stops."),
	}
}
