package memory

import (
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
)

func TestContract(t *testing.T) {
	rowtest.Run(t, func(t *testing.T) rows.Store {
		s, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
