package docstore

import (
	"fmt"

	"github.com/walsvc/walsvc/client"
)

// A state is what a shard's checkpoint says: a few hundred bytes, which the service
// keeps, and hands to whoever recovers. A replica keeps its own beside its pages.
//
//	claim  uvarint length, bytes: as client.Claim spells it
//	pages  the rest: a manifest
type state struct {
	claim client.Claim // covers every operation in the pages
	pages manifest
}

func (s state) encode() []byte {
	return append(appendBytes(nil, []byte(s.claim.String())), s.pages.encode()...)
}

// decodeState reads a checkpoint's state; that of no checkpoint is empty.
func decodeState(b []byte, pages int) (s state, err error) {
	in := parser{rest: b}
	if len(b) > 0 {
		if s.claim, err = client.ParseClaim(string(in.bytes(in.uvarint()))); err != nil || in.bad {
			return state{}, fmt.Errorf("checkpoint: %w: no claim", ErrFile)
		}
	}
	s.pages, err = decodeManifest(in.rest, pages)
	return s, err
}
