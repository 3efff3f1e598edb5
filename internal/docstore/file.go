package docstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A checkpoint file is
//
//	magic   "docstore checkpoint 1\n"
//	lsn     uvarint: applied last
//	count   uvarint: documents
//	count times: key (uvarint length, bytes), LSN (uvarint), doc (uvarint length, bytes)
//	CRC-32C of all of that, 4 bytes, little-endian
//
// and exists under its name only when it is complete and durable.
const (
	fileMagic  = "docstore checkpoint 1\n"
	fileSuffix = ".checkpoint"
	tmpSuffix  = ".tmp"
)

// ErrFile is returned for a checkpoint file that is not what was written.
var ErrFile = errors.New("damaged checkpoint file")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A document is what a shard keeps under a key.
type document struct {
	lsn uint64 // of the put that stored it
	doc []byte // never changed, so that maps can be copied without it
}

func fileName(shard int, lsn uint64) string {
	return fmt.Sprintf("shard-%d-%016x%s", shard, lsn, fileSuffix)
}

// writeFile writes a checkpoint file. When it returns nil the file is durable
// under its name: its bytes were synced before the rename and the rename after.
func writeFile(dir, name string, lsn uint64, docs map[string]document) error {
	tmp := filepath.Join(dir, name+tmpSuffix)
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(encodeFile(f, lsn, docs), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func encodeFile(f *os.File, lsn uint64, docs map[string]document) error {
	w := bufio.NewWriterSize(f, 256<<10)
	var sum uint32
	var scratch []byte
	flush := func() {
		sum = crc32.Update(sum, castagnoli, scratch)
		_, _ = w.Write(scratch) // the error stays with w until Flush
		scratch = scratch[:0]
	}
	scratch = append(scratch, fileMagic...)
	scratch = binary.AppendUvarint(scratch, lsn)
	scratch = binary.AppendUvarint(scratch, uint64(len(docs)))
	flush()
	for key, d := range docs {
		scratch = appendBytes(scratch, []byte(key))
		scratch = binary.AppendUvarint(scratch, d.lsn)
		scratch = appendBytes(scratch, d.doc)
		flush()
	}
	_, _ = w.Write(binary.LittleEndian.AppendUint32(nil, sum))
	return w.Flush()
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// readFile reads a checkpoint file. It returns an error that Is ErrFile if the
// file is not, byte for byte, what writeFile wrote.
func readFile(dir, name string) (lsn uint64, docs map[string]document, err error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, nil, err
	}
	body, ok := bytes.CutPrefix(b, []byte(fileMagic))
	if !ok || len(body) < 4 {
		return 0, nil, fmt.Errorf("%w: %s: no magic", ErrFile, name)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return 0, nil, fmt.Errorf("%w: %s: wrong checksum", ErrFile, name)
	}
	p := parser{rest: body[:len(body)-4]}
	lsn = p.uvarint()
	count := p.uvarint()
	docs = make(map[string]document)
	for range count {
		key := string(p.bytes(p.uvarint()))
		docs[key] = document{lsn: p.uvarint(), doc: p.bytes(p.uvarint())}
		if p.bad {
			break
		}
	}
	if p.bad || len(p.rest) > 0 || uint64(len(docs)) != count {
		return 0, nil, fmt.Errorf("%w: %s: %d documents announced, %d there", ErrFile, name, count, len(docs))
	}
	return lsn, docs, nil
}

// removeOthers removes a shard's checkpoint files except the named one, and
// unfinished ones. What is left over after an error is tried again next time.
func removeOthers(dir string, shard int, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("shard-%d-", shard)
	for _, e := range entries {
		name := e.Name()
		ours := strings.HasPrefix(name, prefix) &&
			(strings.HasSuffix(name, fileSuffix) || strings.HasSuffix(name, fileSuffix+tmpSuffix))
		if !ours || name == keep {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
