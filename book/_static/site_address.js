// In a command of the class site-address, ADDRESS becomes the site's own address: where this file lies, one folder up.
// Only the reader's browser knows it, on a server as on a disk.
{
  const site = new URL("..", document.currentScript.src).href.replace(/\/$/, "");
  document.addEventListener("DOMContentLoaded", () => {
    for (const command of document.querySelectorAll(".site-address pre")) {
      const texts = document.createTreeWalker(command, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replace("ADDRESS", site);
    }
  });
}
