package admin

import (
	"log/slog"
	"net/http"
)

// Starting returns a handler that responds to every request with 503 in the API's error format
// while the process is starting. The function `doing` describes the current step of the start.
func Starting(doing func() string, logger *slog.Logger) http.Handler {
	a := &api{logger: logger}
	return a.identify(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, &problem{status: http.StatusServiceUnavailable,
			message: "the process is not ready: send the request again when /ready returns 200; " + doing()})
	}))
}
