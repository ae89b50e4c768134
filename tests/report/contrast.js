// The text on the page with less contrast than WCAG asks for (4.5; 3 where it is large), by the
// colours as computed: what lies behind a text is what its ancestors paint.
const parse = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n.slice(0, 3), 1]; };
const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
const light = (rgb) => { const [r, g, b] = rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (node) => { const chain = [];
  for (let n = node; n; n = n.parentElement) chain.unshift(parse(getComputedStyle(n).backgroundColor));
  return chain.reduce((below, colour) => over(colour, below), [255, 255, 255]); };
const poor = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !node.checkVisibility() || node.matches(":disabled, noscript, script")) continue;
  const style = getComputedStyle(node), below = behind(node), size = parseFloat(style.fontSize);
  const colour = parse(node instanceof SVGElement ? style.fill : style.color);
  colour[3] *= Number(style.opacity);
  const [a, b] = [light(over(colour, below)), light(below)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) poor.push(`${node.textContent.trim().slice(0, 30)} (${node.className.baseVal ?? node.className}): ${ratio.toFixed(2)}`);
}
return poor;
