package expand

// Functions that Rewrite inserts. They begin with an underscore, like those that html/template inserts; names in the
// templates of tenants must not.
const (
	reserved = "_"
	fnStep   = "_bound_step"
	fnEnter  = "_bound_enter"
	fnLeave  = "_bound_leave"
	fnPrint  = "_bound_print"
	fnValue  = "_bound_value"
	fnArg    = "_bound_arg"
	fnRange  = "_bound_range"
)

// Limits of a text.
const (
	maxText    = 256 << 10 // bytes
	maxActions = 10_000    // number of actions, because the parser is recursive
	maxNesting = 200       // depth of nested branches and parentheses
	maxRanges  = 5         // depth of nested ranges, because html/template analyzes each of them twice
	maxCalls   = 200       // number of template actions in a field
	maxArg     = 1 << 10   // bytes or elements of an argument of a method
	stepNodes  = 3         // steps of the call that is inserted at the beginning of a list
	blankBytes = 64        // bytes of white space of a template without other content
)

// routeLabelsSteps is the number of steps of a call of routeLabels, which may execute another text.
const routeLabelsSteps = 100

// builtin reports whether a function is one whose work and result are counted by its replacement, or are small. The results
// of other functions are measured.
func builtin(name string) bool {
	switch name {
	case "and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println", "urlquery",
		"eq", "ge", "gt", "le", "lt", "ne",
		"toUpper", "toLower", "title", "trimSpace", "join", "match", "safeHtml", "safeUrl", "urlUnescape", "reReplaceAll",
		"stringSlice", "routeLabels", "date", "tz", "now", "since", "humanizeDuration", "toDate", "mustToDate", "toJson",
		"base64encode", "base64decode", "list", "append", "dict":
		return true
	}
	return false
}

// plainField reports whether a name in a chain of fields is a field of Alertmanager's data, or cannot be a method.
func plainField(name string) bool {
	switch name {
	case "Receiver", "Status", "Alerts", "NotificationReason", "GroupLabels", "CommonLabels", "CommonAnnotations", "RouteLabels",
		"ExternalURL", "Labels", "Annotations", "StartsAt", "EndsAt", "GeneratorURL", "Fingerprint", "Name", "Value":
		return true
	}
	return name[0] >= 'a' && name[0] <= 'z'
}
