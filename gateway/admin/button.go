package admin

import (
	"bytes"
	"net/http"
)

// button serves a POST of a button of the overview page. It sends a request with the same path to
// the admin API, which checks and audits it. The browser has authenticated with a password, but the
// API accepts only the token. After success, and after 404 (nothing is left to do), the browser is
// redirected to the page; otherwise it shows the error.
func (s *Surface) button(w http.ResponseWriter, r *http.Request) {
	req := r.Clone(r.Context())
	req.URL.Path, req.URL.RawPath, req.RequestURI = Root+r.URL.Path, "", ""
	req.Body, req.ContentLength = http.NoBody, 0
	req.Header = http.Header{"Authorization": {"Bearer " + s.Token}}
	answer := &heldResponse{header: http.Header{}, code: http.StatusOK}
	s.API.ServeHTTP(answer, req)
	if answer.code/100 == 2 || answer.code == http.StatusNotFound {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	w.Header().Set("Content-Type", answer.header.Get("Content-Type"))
	w.WriteHeader(answer.code)
	_, _ = w.Write(answer.body.Bytes())
}

// heldResponse is a response in memory.
type heldResponse struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *heldResponse) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *heldResponse) WriteHeader(code int) { h.code = code }

// Write implements http.ResponseWriter.
func (h *heldResponse) Write(p []byte) (int, error) { return h.body.Write(p) }
