package admin

import (
	"log/slog"
	"net/http"
)

// Starting answers every request with 503, in the form of the API's errors, for
// as long as a process starts and has no API yet. doing says what it does.
func Starting(doing func() string, logger *slog.Logger) http.Handler {
	a := &api{logger: logger}
	return a.identify(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "5")
		writeProblem(w, r, &problem{status: http.StatusServiceUnavailable,
			message: "this process does not serve yet; send the request again when /ready answers 200. It is " + doing()})
	}))
}
