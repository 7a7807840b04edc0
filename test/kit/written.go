package kit

import (
	"net/http"
	"regexp"
	"strconv"
)

var rejected = regexp.MustCompile(`\): (\d+) samples rejected`)

// Written returns how many of the sent samples and histograms of a remote write were
// written, as the response states: by the headers of remote write 2.0, and for version 1,
// which must not get them, by the number of rejected samples in the text. It is -1 if the
// response to version 1 has the headers.
func Written(version, status int, h http.Header, text string, sent int) int {
	if version == 2 {
		written := 0
		for _, name := range []string{"Samples", "Histograms"} {
			n, _ := strconv.Atoi(h.Get("X-Prometheus-Remote-Write-" + name + "-Written")) // a missing header counts as 0
			written += n
		}
		return written
	}
	for _, name := range []string{"Samples", "Histograms", "Exemplars"} {
		if h.Get("X-Prometheus-Remote-Write-"+name+"-Written") != "" {
			return -1
		}
	}
	if status/100 == 2 {
		return sent
	}
	found := rejected.FindAllStringSubmatch(text, -1)
	if status != http.StatusBadRequest || found == nil {
		return 0
	}
	for _, m := range found {
		n, _ := strconv.Atoi(m[1])
		sent -= n
	}
	return sent
}
