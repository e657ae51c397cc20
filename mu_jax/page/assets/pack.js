// Data stand in the page as JSON, gzip and base64, and are read when they are needed.
const unpacked = new Map();

async function unpackText(id) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function unpack(id) {
  if (!unpacked.has(id)) unpacked.set(id, unpackText(id).then(JSON.parse));
  return unpacked.get(id);
}

function say(text) {
  document.getElementById("said").textContent = text;
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
