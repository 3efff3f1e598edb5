package linear

import (
	"flag"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
)

var (
	rounds  = flag.Int("linear.rounds", 12, "how often each test breaks the service")
	chosen  = flag.Uint64("linear.seed", 0, "seed of the clients and of what happens to the service; 0 means a new one")
	between = flag.Int("linear.operations", 250, "how many operations there are between two breaks, about")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeded returns a generator and says how to have it again: what the clients ask
// and what happens to the service then is the same, and when is not.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	s := *chosen
	for s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-linear.rounds=%d -linear.seed=%d", *rounds, s)
	return rand.New(rand.NewPCG(s, 0))
}
