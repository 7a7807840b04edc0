package nearest

import "testing"

func TestWord(t *testing.T) {
	known := []string{"retention", "max_active_series", "max_label_names_per_series", "create", "list", "show", "token"}
	for word, want := range map[string]string{
		"retentoin": "retention", "Retention": "retention", "retention_": "retention", "max_active_serie": "max_active_series",
		"creat": "create", "lst": "list", "tokn": "token", "shwo": "show", "max_series": "max_active_series",
		"foo": "", "": "", "x": "", "delete": "", "max": "", "series": "",
	} {
		if got := Word(word, known); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Word(string(make([]byte, 1<<20)), known); got != "" {
		t.Errorf("a long word: %q", got)
	}
}
