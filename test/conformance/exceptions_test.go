package conformance

// exception says why an eval of a script does not pass.
type exception struct {
	reason string
	// likePrometheus says that Prometheus without its feature flags would not
	// pass either. Its answer and ours must then be the same.
	likePrometheus bool
}

// exceptions finds the evals that do not pass, by file and line of the scripts
// of the Prometheus version in go.mod. A changed version needs a new list; the
// test says what is missing and what is too much.
func exceptionOf(p protocol, file string, line int) *exception {
	return nil
}
