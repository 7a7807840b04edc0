package kit

import (
	"net/http"
	"regexp"
	"strconv"
)

var rejected = regexp.MustCompile(`\): (\d+) samples rejected`)

// Written returns how many of the sent samples and histograms of a remote write were
// written, as the response states: for version 2 in its headers, for version 1 by the number
// of rejected samples in its text. Written returns -1 if the response to version 1 has the
// headers, which only version 2 must get.
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
