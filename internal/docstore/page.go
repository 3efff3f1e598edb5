package docstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/walsvc/walsvc/client"
)

// A page is a part of a shard's documents: the unit that is written and read. It
// is changed in memory and never on disk, where each state that is written has a
// file of its own.
type page struct {
	docs map[string]document
	lsn  client.LSN // of the last operation in it; 0 for none
	file stamp      // of the file that was written last; zero if there is none
}

// dirty reports whether the page has operations that its file does not.
func (p *page) dirty() bool { return p.lsn > p.file.lsn }

// A document is what is kept under a key.
type document struct {
	lsn client.LSN // of the put that stored it
	doc []byte     // never changed, so that maps can be copied without it
}

// A stamp names the state of a page that a file has. The LSN alone would not do: an
// engine that was fenced and does not know it yet has operations of its own at LSNs
// where its successor has others. With the epoch of whoever writes, two engines
// never write under one name.
type stamp struct {
	epoch uint64
	lsn   client.LSN
}

// A page's file is
//
//	magic   "docstore page 1\n"
//	epoch   uvarint
//	lsn     uvarint: of the last operation in it
//	count   uvarint: documents
//	count times: key (uvarint length, bytes), LSN (uvarint), doc (uvarint length, bytes)
//	CRC-32C of all of that, 4 bytes, little-endian
//
// and exists under its name only when it is complete and durable.
const (
	pageMagic  = "docstore page 1\n"
	pageSuffix = ".page"
	tmpSuffix  = ".tmp"
)

// ErrFile is returned for a file of this store that is not what was written, or not
// the one that a checkpoint names.
var ErrFile = errors.New("damaged or foreign file")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func pageName(shard, page int, s stamp) string {
	return fmt.Sprintf("shard-%d-page-%d-epoch-%d-lsn-%d%s", shard, page, s.epoch, s.lsn, pageSuffix)
}

// encodePage returns what a page's file has.
func encodePage(p *page, s stamp) []byte {
	b := []byte(pageMagic)
	b = binary.AppendUvarint(b, s.epoch)
	b = binary.AppendUvarint(b, uint64(s.lsn))
	b = binary.AppendUvarint(b, uint64(len(p.docs)))
	for key, d := range p.docs {
		b = appendBytes(b, []byte(key))
		b = binary.AppendUvarint(b, uint64(d.lsn))
		b = appendBytes(b, d.doc)
	}
	return seal(b)
}

// readPage reads the file of a page. It returns an error that Is ErrFile if that is
// not, byte for byte, what was written under that name.
func readPage(dir string, shard, index int, s stamp) (page, error) {
	name := pageName(shard, index, s)
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return page{}, err
	}
	body, err := unseal(b, pageMagic)
	if err != nil {
		return page{}, fmt.Errorf("%s: %w", name, err)
	}
	in := parser{rest: body}
	is := stamp{in.uvarint(), client.LSN(in.uvarint())}
	count := in.uvarint()
	p := page{docs: make(map[string]document), lsn: s.lsn, file: s}
	for range count {
		key := string(in.bytes(in.uvarint()))
		p.docs[key] = document{lsn: client.LSN(in.uvarint()), doc: in.bytes(in.uvarint())}
		if in.bad {
			break
		}
	}
	if in.bad || len(in.rest) > 0 || uint64(len(p.docs)) != count || is != s {
		return page{}, fmt.Errorf("%s: %w: %d documents of %d, of epoch %d and LSN %d", name, ErrFile, len(p.docs), count, is.epoch, is.lsn)
	}
	return p, nil
}

// A manifest says which files a shard's pages are in, by page; zero stamps are of
// pages that were never written, which are empty.
type manifest []stamp

func (m manifest) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(m)))
	for _, s := range m {
		b = binary.AppendUvarint(b, s.epoch)
		b = binary.AppendUvarint(b, uint64(s.lsn))
	}
	return b
}

func decodeManifest(b []byte, pages int) (manifest, error) {
	if len(b) == 0 { // nothing was ever written
		return make(manifest, pages), nil
	}
	in := parser{rest: b}
	if n := in.uvarint(); in.bad || n != uint64(pages) {
		return nil, fmt.Errorf("manifest of %d pages: %w: the store has %d", n, ErrFile, pages)
	}
	m := make(manifest, pages)
	for i := range m {
		m[i] = stamp{in.uvarint(), client.LSN(in.uvarint())}
	}
	if in.bad || len(in.rest) > 0 {
		return nil, fmt.Errorf("manifest: %w", ErrFile)
	}
	return m, nil
}

// writeFile writes a file. When it returns nil the file is durable under its name,
// but for the name itself: its bytes were synced before the rename, and syncDir makes
// the rename durable, once for many files.
func writeFile(dir, name string, b []byte) error {
	tmp := filepath.Join(dir, name+tmpSuffix)
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	_, _ = w.Write(b) // the error stays with w until Flush
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// makeDir makes a directory whose name is durable, with the parents that are missing:
// without their names its files are gone, however they were synced.
func makeDir(dir string) error {
	parent := filepath.Dir(dir)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDir(parent); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent) // also of one that is there: whoever made it may have died before this
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeOthers removes the page files of a shard that keep does not name, and what
// was left unfinished. Those of a later epoch than own stay: whoever asks may have
// been fenced since, and they are its successor's. What is left over after an error
// is removed the next time.
func removeOthers(dir string, shard int, own uint64, keep manifest) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	kept := make(map[string]bool)
	for i, s := range keep {
		kept[pageName(shard, i, s)] = true
	}
	for _, e := range entries {
		var of, index int
		var s stamp
		name := strings.TrimSuffix(e.Name(), tmpSuffix)
		_, err := fmt.Sscanf(name, "shard-%d-page-%d-epoch-%d-lsn-%d"+pageSuffix, &of, &index, &s.epoch, &s.lsn)
		ours := err == nil && of == shard && name == pageName(of, index, s) && s.epoch <= own
		if !ours || kept[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// seal puts a checksum behind bytes.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unseal returns what is between a magic and the checksum.
func unseal(b []byte, magic string) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte(magic)) || len(b) < len(magic)+4 {
		return nil, fmt.Errorf("%w: no magic", ErrFile)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrFile)
	}
	return b[len(magic):end], nil
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// clone returns a copy that stays as it is.
func (p *page) clone() page { return page{docs: maps.Clone(p.docs), lsn: p.lsn, file: p.file} }
