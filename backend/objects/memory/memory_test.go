package memory

import (
	"testing"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

func TestContract(t *testing.T) {
	objecttest.Run(t, func(*testing.T) objects.Store { return New() })
}
