package limits

import (
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// TestDocumentation compares docs/limits.md with the declarations.
func TestDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := reflect.ValueOf(Default())
	for i, d := range Describe() {
		value := fmt.Sprint(defaults.Field(i).Interface())
		switch v := defaults.Field(i).Interface().(type) {
		case float64:
			value = strconv.FormatFloat(v, 'f', -1, 64)
		case string:
			if value = "`" + v + "`"; v == "" {
				value = "empty"
			}
		}
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %s |\n", d.Name, d.Unit, value, d.Zero, d.Meaning)
		if !strings.Contains(string(doc), row) {
			t.Errorf("docs/limits.md does not contain the row\n%s", row)
		}
	}
}
